"""Texts that would set `window.hacked`, or change the page, if anything took them for more than text."""

from __future__ import annotations

TAGS = (
    "img src=x onerror=A",
    "svg onload=A",
    "iframe srcdoc='<script>A</script>'",
    "body onload=A",
    "input autofocus onfocus=A",
)
PAYLOADS = [
    payload.replace("A", "window.hacked=1")
    for payload in (
        "<script>A</script>",
        "</script><script>A</script>",
        "<scr<script>ipt>A</scr</script>ipt>",
        *(f"<{tag}>" for tag in TAGS),
        *(f'"><{tag}>' for tag in TAGS),
        *(f"'><{tag}>" for tag in TAGS),
        *(f"</div></label><{tag}>" for tag in TAGS),
        *(f"&lt;{tag}&gt;" for tag in TAGS),
        *(f"<!--><{tag}>-->" for tag in TAGS),
        "{{ constructor.constructor('A')() }}",
        "{{A}}",
        "${A}",
        "`;A;`",
        "'; A; '",
        '"; A; "',
        "javascript:A",
        "[link](javascript:A)",
        '![image](x"onerror="A)',
        "<a href=javascript:A>here</a>",
        "<style>body{display:none}</style>",
        "<link rel=stylesheet href=http://evil.example/x.css>",
        "<base href=http://evil.example/>",
        "<meta http-equiv=refresh content='0;url=http://evil.example'>",
        "<form action=http://evil.example><button>x</button></form>",
        "<math><mtext><table><mglyph><style><img src=x onerror=A>",
        "<template><script>A</script></template>",
        "\u2028<script>A</script>\u2029",
    )
]

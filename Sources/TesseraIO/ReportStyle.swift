/// Colours follow the reader's light or dark setting; the six line colours differ in lightness too.
let reportStyle = """
    :root{color-scheme:light dark;--paper:#fbfaf8;--card:#fff;--ink:#1f2328;--faint:#636b74;--rule:#e3e1dc;\
    --good:31,119,180;--bad:200,70,20;\
    --c0:#1f66b5;--c1:#d2620e;--c2:#2b8a4b;--c3:#8a4fb5;--c4:#a87a00;--c5:#596673}
    @media (prefers-color-scheme:dark){:root{--paper:#15181c;--card:#1d2126;--ink:#e8e6e3;--faint:#9aa3ad;\
    --rule:#343a41;--good:90,160,225;--bad:240,120,60;\
    --c0:#6aaef5;--c1:#f59a4c;--c2:#67c98a;--c3:#c495ea;--c4:#dcb84a;--c5:#a9b4c0}}
    *{box-sizing:border-box}
    body{margin:0 auto;max-width:1080px;padding:32px 24px;background:var(--paper);color:var(--ink);\
    font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
    h1{font-size:28px;line-height:1.2;margin:0}header p{margin:6px 0 0;color:var(--faint)}
    h2{font-size:18px;margin:36px 0 12px}
    footer{margin-top:40px;color:var(--faint);font-size:13px}
    figure{margin:0}
    .tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:24px 0 0}
    .tiles div,.chart,.samples figure{background:var(--card);border:1px solid var(--rule);border-radius:10px}
    .tiles div{padding:12px 16px}dt{color:var(--faint);font-size:13px}dd{margin:0;font-size:24px;font-weight:600;\
    font-variant-numeric:tabular-nums}
    .charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(420px,100%),1fr));gap:16px}
    .chart{padding:14px 16px 8px}.chart figcaption{font-weight:600;display:flex;flex-wrap:wrap;\
    justify-content:space-between;gap:4px 16px}
    .chart ul{list-style:none;display:flex;gap:4px 16px;margin:0;padding:0;font-weight:400;font-size:13px;\
    flex-wrap:wrap}
    .chart li i{display:inline-block;width:14px;height:3px;border-radius:2px;margin-right:6px;vertical-align:middle}
    svg{display:block;width:100%;height:auto;overflow:visible}svg text{fill:var(--faint);font-size:11px;\
    font-variant-numeric:tabular-nums}
    .grid{stroke:var(--rule);stroke-width:1}path{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
    path.c0{stroke:var(--c0)}path.c1{stroke:var(--c1)}path.c2{stroke:var(--c2)}path.c3{stroke:var(--c3)}\
    path.c4{stroke:var(--c4)}path.c5{stroke:var(--c5)}
    i.c0{background:var(--c0)}i.c1{background:var(--c1)}i.c2{background:var(--c2)}i.c3{background:var(--c3)}\
    i.c4{background:var(--c4)}i.c5{background:var(--c5)}
    circle.c0{fill:var(--c0)}circle.c1{fill:var(--c1)}circle.c2{fill:var(--c2)}circle.c3{fill:var(--c3)}\
    circle.c4{fill:var(--c4)}circle.c5{fill:var(--c5)}
    .samples{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:12px}
    .samples figure{padding:10px;font-size:13px}.samples figure div{display:flex;gap:6px}
    .samples img{flex:1 1 0;min-width:0;aspect-ratio:1;object-fit:contain;image-rendering:pixelated;border-radius:4px;\
    background:#80808022}
    .samples figcaption{margin-top:6px}.right b{color:rgb(var(--good))}.wrong b{color:rgb(var(--bad))}
    table{border-collapse:collapse;font-variant-numeric:tabular-nums}th{font-weight:400;text-align:left}
    .number{text-align:right;white-space:nowrap}
    .facts td,.facts th{padding:5px 20px 5px 0;border-bottom:1px solid var(--rule);vertical-align:top;\
    overflow-wrap:anywhere}.facts th{color:var(--faint)}
    .candidates td,.candidates th{white-space:nowrap}.candidates td:last-child{white-space:normal;min-width:14em}
    .bars{width:100%;max-width:640px}.bars th{padding:3px 16px 3px 0;white-space:nowrap;width:1%}.bar{width:100%}
    .bar i{display:block;height:12px;border-radius:3px;background:rgb(var(--good));min-width:1px}
    .bars .number{padding-left:12px}
    .scroll{overflow-x:auto}.matrix caption{text-align:left;color:var(--faint);font-size:13px;margin-bottom:8px}
    .matrix{font-size:13px}.matrix th{padding:2px 10px 2px 0;white-space:nowrap}
    .matrix th[scope=col]{padding:0 0 6px;vertical-align:bottom;text-align:center}
    .matrix th[scope=col] span{writing-mode:vertical-rl;transform:rotate(180deg)}
    .matrix td{min-width:44px;height:32px;text-align:center;border:1px solid var(--paper);border-radius:4px}
    .matrix td.hit{background:rgba(var(--good),calc(var(--s)*.55))}
    .matrix td.miss{background:rgba(var(--bad),calc(var(--s)*.9))}
    pre{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:12px 16px;\
    white-space:pre-wrap;overflow-wrap:anywhere}
    path.dashed{stroke-dasharray:7 5}.chart li i.dashed{width:5px;margin-right:15px}
    @media print{body{max-width:none}section{break-inside:avoid}}
    """

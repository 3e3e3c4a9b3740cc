"""How a page looks, in light and in dark, on a desk and on a telephone.

On a narrow screen the rows of a wide table become blocks, each cell behind its column's name.
"""

from typing import Final

STYLE: Final = """
:root{color-scheme:light dark;--line:#d8dee4;--soft:#f6f8fa;--good:#1a7f37;--bad:#a40e26;
--mixed:#9a6700;--text:#1b1f24;--back:#fff;--dim:#57606a}
@media(prefers-color-scheme:dark){:root{--line:#30363d;--soft:#161b22;--good:#3fb950;
--bad:#ff7b72;--mixed:#d29922;--text:#e6edf3;--back:#0d1117;--dim:#9198a1}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:1.5rem auto;padding:0 1rem;
color:var(--text);background:var(--back);overflow-wrap:break-word}
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.2rem;margin:2.2rem 0 .6rem}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.4rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
.number,.state{white-space:nowrap}td.number{font-variant-numeric:tabular-nums}
small{color:var(--dim)}.wide{overflow-x:auto}
.verdict{border-left:6px solid var(--mixed);padding:.7rem 1rem;background:var(--soft)}
.verdict p{margin:.35rem 0}.verdict .first{font-size:1.15rem}.verdict .tone{font-weight:700}
.verdict.good{border-color:var(--good)}.verdict.bad{border-color:var(--bad)}
.good .tone{color:var(--good)}.mixed .tone{color:var(--mixed)}.bad .tone{color:var(--bad)}
ul.alarms{list-style:none;padding:0;margin:0}
ul.alarms li{border-left:4px solid var(--bad);padding:.15rem .8rem;margin:.45rem 0}
.alarm{color:var(--bad);font-weight:600}.ok{color:var(--good)}.shown{color:var(--dim)}
tr.alarms{background:var(--soft);box-shadow:inset 4px 0 var(--bad)}
.name{font-weight:600}.settings td{overflow-wrap:anywhere}
details{margin:.6rem 0}summary{cursor:pointer;font-weight:600}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,24rem),1fr));gap:1.2rem}
figure{margin:0 0 .8rem;max-width:30rem}figcaption{font-weight:600}
svg{display:block;width:100%;height:auto;max-width:44rem}svg text{font-size:12px;fill:currentColor;
paint-order:stroke;stroke:var(--back);stroke-width:3px}
svg .grid{stroke:var(--line)}svg .level{stroke:var(--dim);stroke-dasharray:4}
.legend{font-size:.8rem;margin:0}.legend span{margin-right:.8rem}
pre{white-space:pre-wrap;margin:0;font:inherit;overflow-wrap:anywhere}
@media(min-width:44.01rem){.checks{table-layout:fixed}.checks th:nth-child(1){width:38%}
.checks th:nth-child(2){width:12rem}.checks th:nth-child(3){width:4.5rem}
.checks td.number{white-space:normal}}
@media(max-width:44rem){
.cards,.cards tbody,.cards tr,.cards td{display:block;width:100%}
.cards thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.cards tr{padding:.5rem 0;border-bottom:1px solid var(--line)}
.cards td{border:0;padding:.1rem .6rem}
.cards td:empty{display:none}
.cards td[data-label]::before{content:attr(data-label)": ";color:var(--dim);font-size:.8rem}
.number,.state{white-space:normal}}
@media print{body{max-width:none}details:not([open])>*{display:block}}
"""

"""The look of the pages: one palette, one type scale, as CSS text."""

from __future__ import annotations

__all__ = ["REPORT_CSS"]

REPORT_CSS = """
:root{--ink:#1d2733;--soft:#5c6875;--line:#dde3ea;--wash:#f5f7f9;--blue:#0072b2;--up:#0b7a53;--down:#a33a1a}
*{box-sizing:border-box}
body{margin:0;background:var(--wash);color:var(--ink);
font:16px/1.55 system-ui,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main{max-width:1120px;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .4rem;letter-spacing:-.01em}
h2{font-size:1.2rem;margin:0 0 .6rem}
h3{font-size:.95rem;margin:0 0 .4rem;font-weight:600}
.lead{max-width:46rem;margin:0;color:var(--soft)}
section{margin-top:2.4rem}
.muted,.note{color:var(--soft);font-size:.88rem;margin:.2rem 0 .8rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(240px,1fr));gap:1rem}
.card,.example,.figure,.wide,.commands{background:#fff;border:1px solid var(--line);border-radius:10px}
.card{padding:1rem 1.15rem}.card p{margin:0}.card .note{margin-top:.45rem}
.label{font-size:.88rem;color:var(--soft)}
.role{display:inline-block;border:1px solid var(--line);border-radius:99px;padding:0 .5em;font-size:.75rem}
.figures{display:flex;flex-wrap:wrap;align-items:baseline;gap:.5rem;font-variant-numeric:tabular-nums;font-size:1.45rem}
.figures .from,.figures .arrow{color:var(--soft);font-size:1.1rem}
.change{font-size:.88rem;font-weight:600;color:var(--soft)}.change.up{color:var(--up)}.change.down{color:var(--down)}
.example{display:grid;
grid-template-columns:minmax(130px,170px) 1fr 1fr;gap:1rem;padding:.9rem;margin-bottom:.9rem;align-items:start}
.ask img{width:100%;max-width:130px}
.instruction{margin:.4rem 0 0;font-weight:600;font-size:.93rem;line-height:1.35;overflow-wrap:anywhere}
img{display:block;image-rendering:pixelated;border-radius:4px;border:1px solid var(--line)}
.strip h3{color:var(--soft);font-weight:500}
.edits{display:grid;grid-template-columns:repeat(auto-fill,minmax(76px,1fr));gap:.5rem}
.edit{margin:0}.edit img{width:100%}
.edit figcaption{font-size:.8rem;text-align:center;font-variant-numeric:tabular-nums;margin-top:.2rem;
border-radius:4px;background:linear-gradient(90deg,#cfe5f3 calc(var(--s,0)*100%),transparent 0)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:1rem}
.figure{padding:1rem 1.1rem}
.chart{width:100%;height:auto;display:block;font-size:12px;fill:var(--soft)}
.chart .grid{stroke:var(--line)}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;margin:.5rem 0 0;padding:0;font-size:.85rem}
.legend svg{vertical-align:middle}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;padding:.5rem .8rem;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft);font-size:.85rem;white-space:nowrap}
tbody tr:last-child td{border-bottom:0}
td.n{font-variant-numeric:tabular-nums}
.commands{padding:1rem 1.2rem;margin:0}
.commands dt{font-size:.88rem;color:var(--soft)}.commands dd{margin:.1rem 0 .7rem}
.commands dd:last-child{margin-bottom:0}
code{font:.9rem/1.4 ui-monospace,"SF Mono",Menlo,Consolas,monospace;overflow-wrap:anywhere}
.fine{font-size:.9rem;color:var(--soft)}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:0}
.facts dd{margin:0;overflow-wrap:anywhere}
@media (max-width:760px){.example{grid-template-columns:1fr}.ask{display:flex;gap:.8rem;align-items:center}
.ask img{width:84px}.instruction{margin:0}}
@media print{body{background:#fff}.card,.example,.figure{break-inside:avoid}}
"""

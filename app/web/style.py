"""The look of the pages: one palette, one type scale, as CSS text."""

from __future__ import annotations

__all__ = ["PAGE_CSS", "REPORT_CSS"]

REPORT_CSS = """
:root{color-scheme:light dark;--ink:#1d2733;--soft:#5c6875;--line:#dde3ea;--wash:#f5f7f9;--paper:#fff;--fill:#cfe5f3;
--up:#0b7a53;--down:#a33a1a;--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#8a5fa8;--c4:#b58900;--c5:#56606b}
@media (prefers-color-scheme:dark){:root{--ink:#e4e9ef;--soft:#9fabb8;--line:#313b47;--wash:#12171d;--paper:#1a2129;
--fill:#1f4a66;--up:#4cc38a;--down:#ff8a70;
--c0:#56b4e9;--c1:#f08a3c;--c2:#2fbf8f;--c3:#bb9be0;--c4:#e0bb3f;--c5:#a3afbb}}
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
.card,.example,.figure,.wide,.commands,.notice{background:var(--paper);border:1px solid var(--line);border-radius:10px}
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
.edits{display:grid;grid-template-columns:repeat(var(--n),minmax(0,116px));gap:.5rem}
.edit{margin:0}.edit img{width:100%}
.edit figcaption{font-size:.8rem;text-align:center;font-variant-numeric:tabular-nums;margin-top:.2rem;
border-radius:4px;background:linear-gradient(90deg,var(--fill) calc(var(--s,0)*100%),transparent 0)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:1rem}
.figure{padding:1rem 1.1rem}
.chart{width:100%;height:auto;display:block;font-size:12px;fill:var(--soft)}
.chart .grid{stroke:var(--line)}
.chart .mark{stroke:var(--down);stroke-dasharray:3 3}.chart text.mark{stroke:none;fill:var(--down)}
.notice{padding:.9rem 1.15rem;border-left:5px solid var(--soft);overflow-wrap:anywhere}.notice p{margin:.15rem 0 0}
.notice.good{border-left-color:var(--up)}.notice.bad{border-left-color:var(--down)}
.notice.bad strong{color:var(--down)}.notice.good strong{color:var(--up)}
.sheet{padding:1rem 1.1rem;margin:0 0 1rem}.sheet div{overflow-x:auto}.sheet img{max-width:none;border:0}
.sheet figcaption{font-weight:600;font-size:.95rem;margin-bottom:.5rem}
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
.ask img{width:84px;flex:none}.instruction{margin:0}}
@media (max-width:520px){.chart{font-size:16px}.chart .name{display:none}}
@media print{body{background:var(--paper)}.card,.example,.figure{break-inside:avoid}}
"""

PAGE_CSS = """
:root{--mm-soft:#5a6673}.dark{--mm-soft:#a3b0bf}
.gradio-container{max-width:1360px!important;margin:0 auto!important}
.mm-head{display:flex;flex-wrap:wrap;align-items:baseline;gap:.2rem 1rem;padding:.4rem 0 .2rem}
.mm-head h1{font-size:1.5rem;margin:0;letter-spacing:-.01em}
.mm-head p,.mm-fine{margin:0;color:var(--mm-soft)}
.mm-fine{font-size:.85rem}
.mm-row input{text-overflow:ellipsis}
.cv{--cv-line:var(--border-color-primary);--cv-blue:#0072b2;color:var(--body-text-color);font-size:.95rem}
.cv p{margin:0}
.cv-soft{color:var(--mm-soft)}
.cv-asked{font-size:1.15rem;font-weight:600;overflow-wrap:anywhere;padding-bottom:.8rem}
.cv-notice{border:1px dashed var(--cv-line);border-radius:8px;padding:1.6rem 1rem;text-align:center;
overflow-wrap:anywhere;color:var(--mm-soft)}
.cv-note{font-size:.85rem;color:var(--mm-soft);padding-top:.4rem}
.cv-pick{position:absolute;opacity:0;pointer-events:none}
.cv-strip{display:flex;flex-wrap:wrap;gap:.5rem;padding-bottom:.9rem}
.cv-strip label{width:112px;padding:5px;border:1px solid var(--cv-line);border-radius:8px;cursor:pointer;
display:grid;grid-template-columns:1fr auto;gap:.15rem .3rem;font-size:.78rem;background:var(--block-background-fill)}
.cv-strip label img,.cv-strip .cv-broken{grid-column:1/-1;width:100%;aspect-ratio:1;object-fit:cover;border-radius:4px;
image-rendering:pixelated}
.cv-strip .cv-broken{display:grid;place-items:center;background:var(--background-fill-secondary);font-size:1.4rem}
.cv-strip label span:not(.cv-broken){overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.cv-strip b{font-variant-numeric:tabular-nums}
.cv-panel{display:none}
.cv-look{display:grid;grid-template-columns:minmax(240px,7fr) 6fr;gap:1rem;align-items:start}
.cv-slider{position:relative;width:100%;aspect-ratio:var(--cv-ratio);max-width:calc(540px*var(--cv-ratio));overflow:hidden;
border-radius:8px;border:1px solid var(--cv-line);
background:#808080}
.cv-slider img{position:absolute;inset:0;width:100%;height:100%;object-fit:contain;margin:0}
.cv-pixels img{image-rendering:pixelated}
.cv-slider .cv-before{clip-path:inset(0 calc(100% - var(--cv-at)) 0 0)}
.cv-bar{position:absolute;top:0;bottom:0;left:var(--cv-at);width:2px;margin-left:-1px;background:#fff;
box-shadow:0 0 0 1px rgba(0,0,0,.35);pointer-events:none}
.cv-bar::after{content:"";position:absolute;top:50%;left:50%;width:26px;height:26px;margin:-13px;border-radius:50%;
background:#fff;box-shadow:0 1px 4px rgba(0,0,0,.45)}
.cv-tag{position:absolute;bottom:8px;padding:1px 8px;border-radius:99px;background:rgba(20,28,38,.72);color:#fff;
font-size:.75rem;pointer-events:none}
.cv-left{left:8px}.cv-right{right:8px}
.cv-slider input{position:absolute;inset:0;width:100%;height:100%;margin:0;opacity:0;cursor:ew-resize}
.cv-slider:focus-within{outline:3px solid var(--cv-blue);outline-offset:2px}
.cv-figures{display:grid;grid-template-columns:1fr 1fr;gap:.7rem 1rem}
.cv-figures figure{margin:0}
.cv-figures img{width:100%;margin:0;border-radius:6px;border:1px solid var(--cv-line);display:block}
.cv-figures a:focus-visible{outline:3px solid var(--cv-blue);outline-offset:2px;display:block}
.cv-figures figcaption{font-size:.82rem;padding-top:.25rem}
.cv-wide{overflow-x:auto;margin-top:1rem;border:1px solid var(--cv-line);border-radius:8px;
background:var(--block-background-fill)}
.cv-table{width:100%;border-collapse:collapse;margin:0!important}
.cv-table th,.cv-table td{text-align:left;padding:.5rem .7rem;border:0;border-bottom:1px solid var(--cv-line);
vertical-align:top}
.cv-table tbody tr:last-child>*{border-bottom:0}
.cv-table thead th{font-size:.8rem;font-weight:600;color:var(--mm-soft)}
.cv-table tbody th{font-weight:600;white-space:nowrap;width:1%}
.cv-n{font-variant-numeric:tabular-nums;white-space:nowrap;width:6.5rem}
.cv-none{color:var(--mm-soft)}
.cv-meter{display:block;padding:0 .35rem;border-radius:4px;border-left:2px solid var(--cv-blue);
--cv-tint:color-mix(in srgb,var(--cv-blue) 22%,transparent);
background:linear-gradient(90deg,var(--cv-tint) calc(var(--cv-v)*100%),transparent 0)}
.cv-table .cv-with>*{border-bottom:0;padding-bottom:.1rem}
.cv-why td{padding-top:0!important;font-size:.88rem;overflow-wrap:anywhere}
.cv-scale{font-size:.78rem;align-self:start}
.cv-scale p{display:flex;justify-content:space-between;padding-top:.2rem}
.cv-ramp{display:block;height:12px;border-radius:3px;border:1px solid var(--cv-line);
background:linear-gradient(90deg,#fff,#fee0b6 6%,#f18c28 25%,#b32814 56%,#460514)}
.cv-status{display:inline-block;padding:0 .5em;border-radius:99px;border:1px solid currentColor;font-size:.78rem}
.cv-ok{color:#0b7a53}.cv-not_applicable{color:#8a5a00}
.cv-io_error,.cv-timeout,.cv-parse_error,.cv-refused{color:#b3261e}
.dark .cv-ok{color:#4cc38a}.dark .cv-not_applicable{color:#e5b34b}
.dark .cv-io_error,.dark .cv-timeout,.dark .cv-parse_error,.dark .cv-refused{color:#ff8a80}
@media (max-width:900px){.cv-look{grid-template-columns:1fr}
.cv-slider{max-width:calc(640px*var(--cv-ratio))}.cv-figures{grid-template-columns:repeat(3,1fr)}
.cv-scale{grid-column:1/-1}}
@media (max-width:760px){.cv-table th,.cv-table td{padding:.45rem .4rem}.cv-n{width:auto}}
""" + "".join(
    f"""
.cv-pick:nth-of-type({k}):checked~.cv-panels>.cv-panel:nth-child({k}){{display:block}}
.cv-pick:nth-of-type({k}):checked~.cv-strip>label:nth-child({k}){{border-color:#0072b2;box-shadow:0 0 0 1px #0072b2}}
.cv-pick:nth-of-type({k}):focus-visible~.cv-strip>label:nth-child({k}){{outline:3px solid #0072b2}}"""
    for k in range(1, 9)
)

"""The style sheet of the page, and its script, a slider between two pictures."""

CSS = """
:root{color-scheme:light dark;--bg:#f6f7f8;--card:#fff;--text:#16191d;--dim:#5c6670;--line:#dde2e7;--accent:#0b6bcb;
--in:#98a2ad;--bad:#b3261e;--warn:#8a5a00;--good:#1a7340}
@media(prefers-color-scheme:dark){:root{--bg:#111417;--card:#1a1e23;--text:#e7eaee;--dim:#9aa5b1;--line:#2d343c;
--accent:#67b0ff;--in:#6d7883;--bad:#ff8a80;--warn:#f0bf6a;--good:#7bd69c}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--text);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:24px 16px 64px}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 4px}h2{font-size:1.05rem;margin:0;overflow-wrap:anywhere}
p{margin:0 0 8px}a{color:var(--accent)}.dim{color:var(--dim)}.bad{color:var(--bad)}.warn{color:var(--warn)}
.good{color:var(--good)}.num{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
section,details.file,details.card{background:var(--card);border:1px solid var(--line);border-radius:10px;
margin:16px 0;padding:14px 16px}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{padding:5px 10px 5px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
th{font-weight:600;color:var(--dim)}th.num{text-align:right}tr:last-child td{border-bottom:0}
.facts th{width:11em;white-space:nowrap}.facts td,td.name{overflow-wrap:anywhere}td.name{min-width:9em}
summary{cursor:pointer}summary h2{display:inline}summary p{margin:2px 0 0;font-size:.9rem}
details.file>summary~*{margin-top:12px}
.pairs{display:grid;gap:14px;grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr))}
figure{margin:0;min-width:0}figcaption{color:var(--dim);font-size:.85rem;padding-top:4px}
.pair{position:relative;overflow:hidden;border-radius:6px;background:#000;--at:50%}
.pair img{position:absolute;inset:0;width:100%;height:100%;display:block}
.pair .before{clip-path:inset(0 calc(100% - var(--at)) 0 0)}
.pair::after{content:"";position:absolute;top:0;bottom:0;left:calc(var(--at) - 1px);width:2px;background:#fff;
box-shadow:0 0 3px #000;pointer-events:none}
.pair span{position:absolute;bottom:6px;padding:1px 7px;border-radius:4px;background:#000a;color:#fff;font-size:.75rem;
pointer-events:none}.pair .l{left:6px}.pair .r{right:6px}
.pair input{position:absolute;inset:0;width:100%;height:100%;margin:0;opacity:0;cursor:ew-resize;touch-action:pan-y}
.pair:focus-within{outline:2px solid var(--accent);outline-offset:2px}
.chart p{font-size:.85rem;color:var(--dim);margin:0 0 4px}.plot{position:relative}
.chart svg{display:block;width:100%;height:130px}.chart polyline{fill:none;stroke-width:1.6;
vector-effect:non-scaling-stroke;stroke-linejoin:round}.chart .grid{stroke:var(--line);vector-effect:non-scaling-stroke}
polyline.in{stroke:var(--in)}polyline.out{stroke:var(--accent)}
.plot span{position:absolute;left:0;font-size:.75rem;color:var(--dim);background:var(--card);padding-right:4px;
line-height:1.2}.plot .top{top:2px}.plot .zero{bottom:2px}.axis{display:flex;justify-content:space-between}
.key{white-space:nowrap;margin-left:8px}.key::before{content:"";display:inline-block;width:16px;height:3px;
margin-right:4px;vertical-align:middle;background:var(--in)}.key.out::before{background:var(--accent)}
ul.lines{list-style:none;padding:0;margin:0;font:.82rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
ul.lines li{overflow-wrap:anywhere;padding:1px 0}
"""

SCRIPT = """
addEventListener('input',e=>{const p=e.target.closest('.pair');if(p)p.style.setProperty('--at',e.target.value+'%')});
function reveal(){const e=location.hash&&document.getElementById(location.hash.slice(1));if(e&&'open'in e)e.open=true}
addEventListener('hashchange',reveal);reveal();
"""

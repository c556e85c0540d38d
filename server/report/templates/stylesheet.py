"""CSS style sheet of the report page."""

CSS = """
:root {
  color-scheme: light dark;
  --ink: #1d2530; --soft: #5b6675; --line: #e3e7ec; --wash: #f6f7f9; --accent: #332288;
  --page: #ffffff; --faint: #c9d0d9; --grid: #edf0f3; --lead: #332288; --alarm: #9a3412;
  --series-0: #332288; --series-1: #cc6677; --series-2: #44aa99; --series-3: #ddaa33;
  --series-4: #88ccee; --series-5: #882255; --series-6: #117733; --series-7: #aa4499;
  --series-8: #999933;
  --sans: "Inter", "Source Sans 3", system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
    "Helvetica Neue", Arial, sans-serif;
  --mono: ui-monospace, "SF Mono", "Cascadia Code", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media screen and (prefers-color-scheme: dark) { :root {
  --ink: #e6e9ef; --soft: #a3adbb; --line: #303844; --wash: #1e242d; --accent: #b3a8f5;
  --page: #14181f; --faint: #4a5462; --grid: #262d37; --lead: #3a2f8c; --alarm: #f0a27e;
  --series-0: #b3a8f5; --series-1: #e58795; --series-2: #5cc4b2; --series-3: #e5b94f;
  --series-4: #8fd0f0; --series-5: #d873a8; --series-6: #57b477; --series-7: #d382c8;
  --series-8: #bdbd58;
} figure svg image { filter: invert(1) hue-rotate(180deg); } }
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 var(--sans); font-variant-numeric: tabular-nums;
}
main { max-width: 1064px; margin: 0 auto; padding: 48px 32px 72px; }
h1 { font-size: 32px; line-height: 1.2; letter-spacing: -.015em; margin: 4px 0 10px; }
h2 {
  font-size: 20px; letter-spacing: -.005em; margin: 0 0 6px;
  padding-top: 28px; border-top: 1px solid var(--line);
}
h3 { font-size: 15px; margin: 26px 0 6px; }
section { margin-top: 44px; }
p { margin: 6px 0 12px; max-width: 74ch; }
.eyebrow { color: var(--accent); font-weight: 600; font-size: 13px; overflow-wrap: anywhere; }
.facts { color: var(--soft); display: flex; flex-wrap: wrap; gap: 2px 22px; margin: 0; padding: 0;
  list-style: none; }
.facts b { color: var(--ink); font-weight: 600; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(290px, 1fr)); gap: 12px;
  margin: 28px 0 0; }
.card { border: 1px solid var(--line); border-radius: 10px; padding: 14px 18px 15px; }
.card dt { color: var(--soft); font-size: 13px; }
.card dd { margin: 0; overflow-wrap: anywhere; }
.card .value { font-size: 29px; font-weight: 650; line-height: 1.25; letter-spacing: -.02em; }
.card .note { color: var(--soft); font-size: 13px; }
.card.first { background: var(--lead); border-color: var(--lead); color: #fff; }
.card.first dt, .card.first .note { color: #d9d4f0; }
figure { margin: 16px 0 0; overflow-x: auto; }
figure svg { display: block; width: 100%; height: auto; }
.narrow { display: none; }
.narrow svg { max-width: 520px; }
figure svg text { font-family: var(--sans) !important; }
figcaption, .small { color: var(--soft); font-size: 13px; max-width: 88ch; }
figcaption { margin-top: 6px; }
.table { overflow-x: auto; margin: 14px 0; }
table { border-collapse: collapse; width: 100%; min-width: 820px; font-size: 14px; }
table.plain { min-width: 0; }
sup { line-height: 0; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 12.5px; }
th, td { padding: 8px 14px 8px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td { overflow-wrap: anywhere; }
td.whole { overflow-wrap: break-word; }
th.n, td.n { text-align: right; overflow-wrap: normal; }
td.n { white-space: nowrap; }
td.name { font-weight: 600; min-width: 9em; }
td.wide { min-width: 14em; }
.bar { display: block; height: 4px; border-radius: 2px; background: var(--line); margin-top: 4px;
  min-width: 76px; }
.bar i { display: block; height: 4px; border-radius: 2px; background: var(--accent); }
.none { color: var(--alarm); }
.stage { display: flex; gap: 20px; padding: 12px 0; border-bottom: 1px solid var(--line);
  break-inside: avoid; }
.stage h3 { flex: 0 0 118px; margin: 0; font-size: 13px; font-weight: 400; color: var(--soft); }
.stage h3 b { display: block; color: var(--ink); font-weight: 600; font-size: 14px; }
.grid { flex: 1; display: grid; grid-template-columns: repeat(auto-fill, minmax(77px, 1fr));
  gap: 12px 10px; margin: 0; padding: 0; list-style: none; }
.grid img { display: block; width: 72px; height: 72px; object-fit: contain; background: var(--wash);
  margin-bottom: 5px;
  border-radius: 4px; image-rendering: pixelated; }
.grid span { display: block; font-size: 11.5px; line-height: 1.35; color: var(--soft);
  overflow-wrap: anywhere; }
.grid span b { color: var(--ink); }
table.rows { font-size: 13px; }
.rows th.n { white-space: normal; min-width: 62px; }
.rows th, .rows td { padding: 6px 10px 6px 0; }
.rows td.name { min-width: 11em; }
.rows .origin { white-space: nowrap; }
.grid .origin::before, .rows .origin::before { content: ""; display: inline-block;
  width: 7px; height: 7px;
  border-radius: 50%; background: var(--dot); margin-right: 4px; }
.note-box { background: var(--wash); border-left: 3px solid var(--accent); padding: 12px 18px;
  border-radius: 0 8px 8px 0; margin: 14px 0; }
.note-box p { margin: 0; }
.columns { display: grid; grid-template-columns: 3fr 2fr; gap: 0 48px; }
.columns > div { min-width: 0; }
.plain td, .plain th { padding: 4px 14px 4px 0; font-size: 13px; }
.plain td.k:first-child { white-space: nowrap; padding-right: 28px; }
code, .plain td.k { font-family: var(--mono); font-size: 12.5px; }
pre { background: var(--wash); border-radius: 8px; padding: 12px 16px; overflow-x: auto;
  font: 13px/1.5 var(--mono); margin: 10px 0; }
li { margin: 5px 0; max-width: 80ch; }
details.section { border: 1px solid var(--line); border-radius: 10px; margin: 5px 0; }
details.section > summary { display: grid; grid-template-columns: .7em 1fr 13em 13em;
  align-items: baseline; gap: 2px 12px; padding: 7px 18px; cursor: pointer; list-style: none;
  overflow-wrap: anywhere; }
details.section > summary::-webkit-details-marker { display: none; }
details.section > summary::before { content: "+"; color: var(--accent); font-weight: 700; }
details.section[open] > summary::before { content: "–"; }
details.section > summary:focus-visible { outline: 2px solid var(--accent); border-radius: 10px; }
details.section > summary span { color: var(--soft); font-size: 13px; text-align: right; }
details.section > summary span.none { color: var(--alarm); }
.section .inside { padding: 0 18px 16px; border-top: 1px solid var(--line);
  scroll-margin-top: 60px; }
.section h3 { margin: 18px 0 4px; }
.says { display: grid; grid-template-columns: 172px 1fr; gap: 3px 20px; margin: 6px 0 0;
  font-size: 14px; }
.says dt { color: var(--soft); }
.says dd { margin: 0; min-width: 0; overflow-wrap: anywhere; max-width: 80ch; }
.section ul, .section p { font-size: 14px; }
.section ul { margin: 4px 0 0; padding-left: 20px; }
a { color: inherit; text-decoration-color: var(--faint); text-underline-offset: 3px; }
.measures th { min-width: 13em; }
.unreachable .progress { opacity: .45; }
.progress { margin: 18px 0 0; }
.track { display: grid; grid-template-columns: 8em 1fr 11em; gap: 12px; align-items: center;
  font-size: 13px; margin: 4px 0; }
.track .n { text-align: right; color: var(--soft); }
.track progress { width: 100%; height: 10px; accent-color: var(--accent); }
@media screen and (max-width: 760px) {
  .wide { display: none; }
  .narrow { display: block; }
  .card .value { font-size: 19px; overflow-wrap: break-word; hyphens: auto; }
  .track { grid-template-columns: 1fr auto; gap: 2px 12px; }
  .track progress { grid-column: 1 / 3; grid-row: 2; }
  .measures th { min-width: 7em; }
  details.section > summary { grid-template-columns: .7em 1fr 1fr; }
  details.section > summary b { grid-column: 2 / 4; }
  details.section > summary span:nth-of-type(1) { grid-column: 2; text-align: left; }
  .says { grid-template-columns: 1fr; gap: 0; }
  .says dd { margin-bottom: 8px; }
  main { padding: 24px 16px 48px; }
  .columns { grid-template-columns: 1fr; }
  .stage { flex-direction: column; gap: 8px; }
  .stage h3 { flex: none; }
  .cards { grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
}
@media print {
  @page { margin: 14mm; }
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  figure, .card, tr, .note-box { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  figure, .table { overflow: visible; }
  figure svg, table { min-width: 0; }
  details.section::details-content { content-visibility: visible; block-size: auto; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

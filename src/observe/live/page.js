'use strict';
const token = new URLSearchParams(location.search).get('token') || '';
const $ = id => document.getElementById(id);
const get = async path => {
  const answer = await fetch(path, {headers: {Authorization: 'Bearer ' + token}});
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer.json();
};
const post = async (path, body) => {
  const answer = await fetch(path, {method: 'POST', headers: {Authorization: 'Bearer ' + token, 'Content-Type': 'application/json'}, body: JSON.stringify(body)});
  const said = await answer.json();
  return said.error ? {ok: false, text: said.error} : said;
};
const count = n => Math.round(n).toLocaleString('en');
const seconds = s => s < 5e-4 ? (s * 1e6).toFixed(0) + ' us' : s < 0.1 ? (s * 1e3).toFixed(1) + ' ms' : s < 1 ? (s * 1e3).toFixed(0) + ' ms'
  : s < 10 ? s.toFixed(2) + ' s' : s < 60 ? s.toFixed(1) + ' s' : s < 3600 ? Math.floor(s / 60) + ' min ' + String(Math.floor(s % 60)).padStart(2, '0') + ' s'
  : Math.floor(s / 3600) + ' h ' + String(Math.floor(s / 60 % 60)).padStart(2, '0') + ' min';
const element = (name, text, style) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (style) made.className = style;
  return made;
};
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colourOf = rank => colour('--c' + Math.min(rank, 9));

// Classes by the work that they hold, so that colours are those of the report.
let ranked = [];
let run = null;
const view = {from: 0, to: 0, follow: true, data: null};

function showRun(r) {
  run = r;
  document.title = `${Math.floor(100 * share(r))} % · ${r.job}`;
  $('name').textContent = r.run;
  const state = $('state');
  state.textContent = r.state;
  state.className = 'state ' + ({COMPLETED: 'good', RUNNING: '', FAILED: 'badly', ERROR: 'badly', INTERRUPTED: 'badly'}[r.state] ?? 'warn');
  const left = r.remaining_s === null ? '' : ` · ends in about ${seconds(r.remaining_s)}` + band(r);
  $('steer').querySelectorAll('button').forEach(button => { button.disabled = r.state !== 'RUNNING'; });
  $('when').textContent = `${seconds(r.elapsed_s)} since ${r.began}${left}`;
  const bar = $('bar');
  bar.setAttribute('aria-valuenow', Math.floor(100 * share(r)));
  bar.firstChild.style.width = 100 * share(r) + '%';
  const tiles = [['tasks', count(r.tasks)], ['completed', count(r.completed)], ['running', count(r.running)], ['queued', count(r.queued)],
    ['failed', r.failed ? count(r.failed) : ''], ['skipped', r.skipped ? count(r.skipped) : ''], ['cancelled', r.cancelled ? count(r.cancelled) : ''],
    ['tasks/s', r.tasks_per_s < 10 ? r.tasks_per_s.toFixed(1) : count(r.tasks_per_s)], [r.ranks === 1 ? 'slots on 1 rank' : `slots on ${r.ranks} ranks`, count(r.slots)],
    ['ended work', seconds(r.work_s)], ['of slot time used', r.used === null ? '' : Math.round(100 * r.used) + ' %'],
    [r.budget === null ? 'spent' : `spent of ${money(r.budget)}`, r.spent === null ? '' : money(r.spent)], ['CPU of the first node', r.node_cpu === null ? '' : Math.round(100 * r.node_cpu) + ' %'],
    ['its memory', r.node_memory ? Math.round(100 * r.node_memory_used / r.node_memory) + ' %' : '']];
  $('tiles').replaceChildren(...tiles.filter(t => t[1] !== '').map(([what, value]) => {
    const tile = element('div', undefined, 'tile');
    tile.append(element('b', value), element('span', what));
    return tile;
  }));
  $('warnings').replaceChildren(...r.warnings.slice(0, 5).map(w => element('p', `${seconds(w.t)}: ${w.text}`, w.level === 'error' ? 'badly' : 'warn')));
}
const bytes = n => { const i = Math.min(5, Math.floor(Math.log2(Math.max(1, n)) / 10)); return (n / 2 ** (10 * i)).toFixed(i && n / 2 ** (10 * i) < 100 ? 1 : 0) + ['', ' Ki', ' Mi', ' Gi', ' Ti', ' Pi'][i] + (i ? 'B' : ' B'); };
const number = n => Number.isInteger(n) && Math.abs(n) < 1e15 ? n.toLocaleString('en') : n.toPrecision(5);
const money = n => n.toLocaleString('en', {minimumFractionDigits: 2, maximumFractionDigits: n < 0.1 ? 4 : 2});
// In eight of ten cases it ends between these.
const band = r => r.forecast ? ` (${seconds(Math.max(0, r.forecast.finish_q10_s - r.elapsed_s))} to ${seconds(Math.max(0, r.forecast.finish_q90_s - r.elapsed_s))})` : '';
const share = r => r.tasks ? (r.completed + r.failed + r.skipped + r.cancelled) / r.tasks : 1;

function rows(id, list, cells, words) {
  $(id).replaceChildren(...list.map(item => {
    const row = element('tr');
    row.append(...cells(item).map((cell, i) => {
      if (!(cell instanceof Node)) return element('td', cell, words.includes(i) ? '' : 'n');
      const around = element('td');
      around.append(cell);
      return around;
    }));
    return row;
  }));
}
// Rows are made anew only when they say something new, so that a button does not vanish under a finger.
let shownRanks = '';
function showRanks({ranks}) {
  const there = r => ['active', 'parked', 'joining', 'draining'].includes(r.state);
  const sorted = ranks.slice().sort((a, b) => there(b) - there(a)).slice(0, 200), text = JSON.stringify(sorted) + (run && run.state);
  if (text === shownRanks) return;
  shownRanks = text;
  const focused = document.activeElement && document.activeElement.dataset.rank;
  rows('ranks', sorted, r => [r.rank, r.node, r.state, r.slots, count(r.attempts), count(r.failed), seconds(r.work_s), Math.round(100 * r.used) + ' %', r.cpus === null ? '' : r.cpus.toFixed(1) + (r.gpu_busy === null ? '' : `, GPUs ${Math.round(100 * r.gpu_busy)} %`), r.memory === null ? '' : bytes(r.memory), r.read === null ? '' : bytes(r.read + r.written), drainButton(r)], [0, 1, 2]);
  if (focused) document.querySelector(`[data-rank="${focused}"]`)?.focus();
}
function drainButton(r) {
  if (r.rank === 0 || r.state !== 'active' || !run || run.state !== 'RUNNING') return '';
  const button = element('button', 'Drain');
  button.type = 'button';
  button.dataset.rank = r.rank;
  button.addEventListener('click', () => steer(`Drain rank ${r.rank} on ${r.node}?`, 'It ends what it runs and takes nothing more; what is left moves to other ranks. A rank that joined leaves with its node.', '/api/v1/drain', {what: String(r.rank)}));
  return button;
}
function showNodes({nodes}) {
  const part = s => s > 0 ? seconds(s) : '–';
  const longest = nodes.slice().sort((a, b) => b.held_s - a.held_s).slice(0, 200);
  rows('nodes', longest, n => [n.node, n.block === null ? '–' : `block ${n.block}`, seconds(n.from_s), seconds(n.held_s), ...[n.starting_s, n.working_s, n.starving_s, n.leaving_s, n.minimum_s].map(part)], [0, 1]);
}
function showDecisions({decisions}) {
  $('decided').hidden = !decisions.length;
  rows('decisions', decisions.slice(0, 12), d => [seconds(d.t), `${d.from} → ${d.to}`, d.reason], [1, 2]);
}
function showSites({t, reason, sites}) {
  $('asked').hidden = !sites.length;
  if (sites.length) $('askedWhy').textContent = `As of the last request, after ${seconds(t)}: ${reason}.`;
  rows('sites', sites, s => [s.name, s.node_hour, s.slots, seconds(s.wait_s), s.wait_from.replaceAll('_', ' '), s.patience_s === null ? '–' : seconds(s.patience_s), s.room === null ? '–' : s.room, s.choice], [0, 4, 7]);
}

function showMeasures({values}) {
  $('measured').hidden = !values.length;
  rows('measures', values.slice(0, 100), m => [m.name, count(m.count), ...[m.last, m.mean, m.min, m.max].map(number)], [0]);
}

// Changes: asked first, done as the commands do them, and the answer shown.
function steer(question, consequence, path, body) {
  const dialog = $('ask');
  $('question').textContent = question;
  $('consequence').textContent = consequence;
  dialog.returnValue = 'no';
  dialog.onclose = async () => {
    if (dialog.returnValue !== 'yes') return;
    const said = $('did');
    said.className = 'note';
    said.textContent = 'Asking the run …';
    const answer = await post(path, body).catch(error => ({ok: false, text: error.message}));
    said.className = answer.ok ? 'good' : 'badly';
    said.textContent = (answer.ok ? 'Done: ' : 'Not done: ') + answer.text;
    refresh().catch(lost);
  };
  dialog.showModal();
}
$('more').addEventListener('click', () => steer('One more rank?', 'A parked rank is woken, or else a node is asked for; nodes are billed.', '/api/v1/scale', {ranks: '+1'}));
$('fewer').addEventListener('click', () => steer('One rank fewer?', 'What waits is withdrawn first; then a rank that joined drains and gives its node back, or one of the run’s own is parked.', '/api/v1/scale', {ranks: '-1'}));
$('rebalance').addEventListener('click', () => steer('Share the remaining work out evenly?', 'Tasks that have not begun move between ranks; what runs goes on.', '/api/v1/rebalance', {}));
$('pause').addEventListener('click', () => {
  const task = $('task').value.trim();
  steer(`Pause ${task || 'the run'}?`, 'What runs goes on, and nothing more of it is started until it is resumed.', '/api/v1/pause', task ? {task} : {});
});
$('resume').addEventListener('click', () => {
  const task = $('task').value.trim();
  steer(`Resume ${task || 'all that is paused'}?`, 'Paused tasks are started again.', '/api/v1/resume', task ? {task} : {});
});
$('cancelTask').addEventListener('click', () => {
  const task = $('task').value.trim();
  if (!task) return $('task').focus();
  steer(`Cancel ${task}?`, 'What runs of it is ended, what would run later is not started, and what needs it is skipped.', '/api/v1/cancel', {task});
});
$('cancel').addEventListener('click', () => steer('Cancel the run?', 'Tasks that run are ended. What is complete stays so; phalanx run --resume goes on from there.', '/api/v1/cancel', {}));

function showClasses({classes}) {
  ranked = classes.slice().sort((a, b) => b.work_s - a.work_s).map(c => c.name);
  if ($('tasks').childElementCount !== Math.min(ranked.length, 200)) $('tasks').replaceChildren(...ranked.slice(0, 200).map(name => { const option = element('option'); option.value = name; return option; }));
  const sorted = classes.slice().sort((a, b) => b.work_s - a.work_s).slice(0, 60);
  rows('classes', sorted, c => [c.name, count(c.attempts), count(c.failed), ...[c.mean_s, c.p50_s, c.p95_s, c.p99_s, c.max_s, c.waited_p95_s, c.work_s].map(seconds)], [0]);
  $('key').replaceChildren(...ranked.slice(0, 10).map((name, i) => {
    const entry = element('span');
    entry.append(element('span', '', 'box k' + Math.min(i, 9)), i === 9 ? 'others' : name);
    return entry;
  }));
}
function showFailures({failures}) {
  const parts = failures.slice(0, 10).flatMap(f => {
    const line = element('p');
    line.append(element('b', f.label), ': ', element('span', f.exit < 0 ? `${f.state}, signal ${-f.exit}` : `${f.state}, exit ${f.exit}`, 'badly'),
      `, attempt ${f.attempt} on ${f.node} after ${seconds(f.ran_s)}`);
    if (f.reason) line.append(`: ${f.reason}`);
    return [line, ...[f.stdout, f.stderr].filter(text => text).map(text => element('pre', text))];
  });
  $('failures').replaceChildren(...(parts.length ? [element('h2', 'Last failures'), ...parts] : []));
}

// A canvas at the resolution of the screen, in units of its own pixels.
function sheet(canvas, height) {
  const ratio = devicePixelRatio || 1, width = canvas.clientWidth;
  canvas.style.height = height + 'px';
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext('2d');
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = '11.5px system-ui, sans-serif';
  return {pen, width, height};
}
function timeAxis(pen, left, right, bottom, from, to) {
  const steps = Math.max(2, Math.floor((right - left) / 110)), raw = (to - from) / steps, power = 10 ** Math.floor(Math.log10(raw || 1));
  const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= raw) || raw;
  pen.fillStyle = colour('--dim');
  pen.strokeStyle = colour('--rule');
  pen.textAlign = 'center';
  for (let t = Math.ceil(from / step) * step; step > 0 && t <= to; t += step) {
    const x = left + (right - left) * (t - from) / (to - from || 1);
    pen.beginPath(); pen.moveTo(x, 0); pen.lineTo(x, bottom); pen.stroke();
    pen.fillText(t ? seconds(t).replace(/\.0+ /, ' ') : '0 s', Math.min(Math.max(x, left + 14), right - 18), bottom + 14);
  }
}

const left = 54;
function drawGantt() {
  const data = view.data, canvas = $('gantt');
  if (!data) return;
  const thick = Math.max(5, Math.min(18, 460 / Math.max(1, data.rows.length))), bottom = thick * data.rows.length;
  const {pen, width} = sheet(canvas, bottom + 22), right = width - 4;
  const x = t => left + (right - left) * (t - view.from) / (view.to - view.from || 1);
  timeAxis(pen, left, right, bottom, view.from, view.to);
  pen.textAlign = 'right';
  const every = Math.ceil(12 / thick);
  data.rows.forEach((name, i) => i % every || pen.fillText(name, left - 6, (i + .5) * thick + 4));
  const palette = data.classes.map(name => { const at = ranked.indexOf(name); return colourOf(at < 0 ? 9 : at); });
  pen.save();
  pen.beginPath(); pen.rect(left, 0, right - left, bottom); pen.clip();
  for (const bar of data.bars) {
    pen.fillStyle = palette[bar.class];
    const from = x(bar.start), wide = Math.max(.6, x(bar.end) - from - .4);
    pen.fillRect(from, bar.row * thick, wide, thick - 1);
    if (bar.state !== 'COMPLETED') { pen.strokeStyle = colour('--bad'); pen.lineWidth = 1.5; pen.strokeRect(from + .7, bar.row * thick + .7, Math.max(.6, wide - 1.4), thick - 2.4); }
  }
  const span = data.to - data.from;
  for (const [row, column, kind, held] of data.cells) {
    pen.fillStyle = palette[kind];
    const from = Math.floor(x(data.from + span * column / data.columns)), until = Math.floor(x(data.from + span * (column + 1) / data.columns)), tall = (thick - 1) * held / 100;
    pen.fillRect(from, (row + 1) * thick - 1 - tall, until - from, tall);
  }
  pen.restore();
}
let asked = 0, answered = 0;
async function loadGantt() {
  const mine = ++asked, all = view.follow;
  const columns = Math.max(60, Math.min(400, Math.floor(($('gantt').clientWidth - left) / 3)));
  const range = all ? '' : `&from=${view.from}&to=${view.to}`;
  const data = await get(`/api/v1/timeline?columns=${columns}${range}`);
  if (mine < answered) return;
  answered = mine;
  if (all && view.follow) { view.from = data.from; view.to = data.to; }
  view.data = data;
  drawGantt();
}
let waiting = 0;
function look(from, to) {
  const end = run ? run.elapsed_s : 0, span = Math.min(Math.max(to - from, 1e-5), end);
  view.from = Math.max(0, Math.min(from, end - span));
  view.to = view.from + span;
  view.follow = span >= end * .9999;
  drawGantt();
  clearTimeout(waiting);
  waiting = setTimeout(() => loadGantt().catch(lost), 80);
}
const zoom = (factor, at) => look(at - (at - view.from) * factor, at + (view.to - at) * factor);
const timeAt = px => view.from + (view.to - view.from) * Math.max(0, px - left) / ($('gantt').clientWidth - left - 4);
const gantt = $('gantt');
gantt.addEventListener('wheel', e => { if (e.ctrlKey || Math.abs(e.deltaY) > Math.abs(e.deltaX)) { e.preventDefault(); zoom(e.deltaY > 0 ? 1.25 : .8, timeAt(e.offsetX)); } }, {passive: false});
let held = null;
gantt.addEventListener('pointerdown', e => { held = {x: e.offsetX, from: view.from, to: view.to}; gantt.setPointerCapture(e.pointerId); });
gantt.addEventListener('pointerup', () => { held = null; });
gantt.addEventListener('pointermove', e => {
  if (held) {
    const moved = (e.offsetX - held.x) / (gantt.clientWidth - left - 4) * (held.to - held.from);
    if (Math.abs(e.offsetX - held.x) > 2) look(held.from - moved, held.to - moved);
    return;
  }
  const data = view.data;
  if (!data || !data.rows.length) return;
  const row = Math.floor(e.offsetY / Math.max(5, Math.min(18, 460 / data.rows.length))), at = timeAt(e.offsetX);
  const bar = data.bars.find(b => b.row === row && b.start <= at && at <= b.end);
  const column = Math.floor((at - data.from) / (data.to - data.from) * data.columns), cell = data.cells.find(c => c[0] === row && c[1] === column);
  $('hint').textContent = bar ? `${bar.label ?? bar.task}: ${seconds(bar.end - bar.start)} from ${seconds(bar.start)}, ${bar.state}`
    : cell ? `${data.rows[row]} at ${seconds(at)}: ${cell[3]} % held, mostly ${data.classes[cell[2]]}` : `${seconds(Math.max(0, at))}`;
});
gantt.addEventListener('keydown', e => {
  const span = view.to - view.from, middle = view.from + span / 2;
  const act = {'+': () => zoom(.7, middle), '=': () => zoom(.7, middle), '-': () => zoom(1.4, middle), ArrowLeft: () => look(view.from - span / 5, view.to - span / 5),
    ArrowRight: () => look(view.from + span / 5, view.to + span / 5), '0': () => look(0, Infinity)}[e.key];
  if (act) { e.preventDefault(); act(); }
});
gantt.addEventListener('dblclick', () => look(0, Infinity));
$('all').addEventListener('click', () => look(0, Infinity));

let history = [], spent = [];
function lines(id, height, to, most, label, list) {
  const {pen, width} = sheet($(id), height), right = width - 4, bottom = height - 22;
  const x = t => left + (right - left) * t / (to || 1), y = v => bottom - (bottom - 10) * v / (most || 1);
  timeAxis(pen, left, right, bottom, 0, to);
  pen.textAlign = 'right';
  [0, .5, 1].forEach(part => pen.fillText(label(most * part), left - 6, y(most * part) + 4));
  for (const {points, kind} of list) {
    pen.strokeStyle = colourOf(kind);
    pen.lineWidth = 1.6;
    pen.beginPath();
    points.forEach(([t, v], i) => pen[i ? 'lineTo' : 'moveTo'](x(t), y(v)));
    pen.stroke();
  }
  return {pen, x, y, right};
}
function drawChart() {
  const to = run ? run.elapsed_s : 1, most = Math.max(1, ...history.map(s => Math.max(s.running, s.queued)));
  lines('chart', 180, to, most, count, [['queued', 1], ['running', 0]].map(([what, kind]) => ({kind, points: history.map(s => [s.t, s[what]])})));
  const ranks = Math.max(2, ...history.map(s => s.ranks_active));
  lines('ranksChart', 90, to, ranks, n => n % 1 ? '' : count(n), [{kind: 2, points: history.map(s => [s.t, s.ranks_active])}]);
}
function drawSpend() {
  $('money').hidden = !run || run.spent === null;
  if ($('money').hidden) return;
  const ahead = run.state === 'RUNNING' ? run.forecast : null, now = run.elapsed_s;
  // An end that may be far away must not make what is near too small to be seen: the band is cut off there.
  const to = ahead ? Math.max(now, Math.min(ahead.finish_q90_s, 2 * ahead.finish_q50_s)) : now;
  const dear = ahead ? Math.min(ahead.cost_q90, Math.max(2 * ahead.cost_q50, run.budget ?? 0)) : 0;
  const most = 1.06 * Math.max(run.spent, run.budget ?? 0, dear, 1e-6);
  const {pen, x, y, right} = lines('spend', 150, to, most, money, [{kind: 0, points: spent.map(p => [p.t, p.spent])}]);
  $('keyBand').hidden = !ahead;
  $('keyBudget').hidden = run.budget === null;
  if (ahead) {
    const from = [x(now), y(run.spent)];
    const [soon, middle, late] = ['q10', 'q50', 'q90'].map(q => [x(Math.max(now, ahead[`finish_${q}_s`])), y(Math.max(run.spent, ahead['cost_' + q]))]);
    pen.fillStyle = pen.strokeStyle = colourOf(3);
    pen.save();
    pen.beginPath(); pen.rect(left, 0, right - left + 3, 128); pen.clip();
    pen.globalAlpha = .3;
    pen.beginPath(); pen.moveTo(...from); pen.lineTo(...soon); pen.lineTo(...middle); pen.lineTo(...late); pen.closePath(); pen.fill();
    pen.globalAlpha = 1;
    pen.beginPath(); pen.moveTo(...from); pen.lineTo(...middle); pen.stroke();
    for (const [px, py] of [soon, middle, late]) { pen.beginPath(); pen.arc(px, py, 2.5, 0, 7); pen.fill(); }
    pen.restore();
  }
  if (run.budget !== null) {
    pen.strokeStyle = colourOf(1);
    pen.setLineDash([6, 4]);
    pen.beginPath(); pen.moveTo(left, y(run.budget)); pen.lineTo(right, y(run.budget)); pen.stroke();
    pen.setLineDash([]);
  }
  const of = run.budget === null ? '' : ` of ${money(run.budget)} (${Math.round(100 * run.spent / run.budget)} %)`;
  $('bill').textContent = `${money(run.spent)} spent${of}` + (ahead ? `; expected in all ${money(ahead.cost_q50)}, in eight of ten cases ${money(ahead.cost_q10)} to ${money(ahead.cost_q90)}` : '') + '.';
}

let failures = 0;
function lost(error) {
  if (++failures < 3) return;
  $('gone').style.display = 'block';
  $('gone').textContent = run ? `No answer any more (${error.message}): the run has ended or cannot be reached. What it left can be seen with: phalanx report ${run.run}` : error.message;
}
async function refresh() {
  showRun(await get('/api/v1/run'));
  const paths = ['ranks', 'nodes', 'classes', 'history', 'failures', 'decisions', 'spend', 'measures', 'sites'];
  const [ranks, nodes, classes, past, failed, decided, paid, measured, asked] = await Promise.all(paths.map(path => get('/api/v1/' + path)));
  showRanks(ranks);
  showNodes(nodes);
  showClasses(classes);
  showFailures(failed);
  showDecisions(decided);
  showMeasures(measured);
  showSites(asked);
  history = past.samples;
  spent = paid.course;
  drawChart();
  drawSpend();
  await loadGantt();
}
async function tick() {
  let pause = 2000;
  try {
    if (!document.hidden) {
      await refresh();
      failures = 0;
      $('gone').style.display = 'none';
    }
  } catch (error) {
    lost(error);
    pause = 3000;
  }
  setTimeout(tick, pause);
}
const redraw = () => { drawGantt(); drawChart(); drawSpend(); };
addEventListener('resize', redraw);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
tick();

"use strict";
// Whatever a client wrote reaches the page as text only: elements are made, markup is never parsed.

const CHARTS = [
  { key: "return_mean", title: "Return", why: "mean of each batch; the band is from its smallest to its largest", band: ["return_min", "return_max"], wide: true },
  { key: "loss", title: "Policy loss", why: "of the last update in each cycle" },
  { key: "value_loss", title: "Value loss", why: "how wrong the value network is, for returns of spread 1" },
  { key: "entropy", title: "Entropy", why: "how much the policy still tries, in nats" },
  { key: "kl", title: "KL", why: "how far an update moved the policy, in nats" },
  { key: "staleness_mean", title: "Staleness", why: "updates between acting and learning" },
  { key: "ess_fraction", title: "Effective share (ESS)", why: "of the batch that counts after correction, 0 to 1", zero: true },
  { key: "lag_s", title: "Lag", why: "from drop to publish", unit: " s", zero: true },
  { key: "update_s", title: "Update", why: "training in each cycle", unit: " s", zero: true },
];
const RANGES = [["1h", "1 hour"], ["24h", "24 hours"], ["7d", "7 days"], ["30d", "30 days"], ["all", "all"]];
const STATES = {
  starting: ["warn", "starting"], running: ["good", "running"], draining: ["warn", "stopping, learning what is left"],
  stopped: ["bad", "stopped"], dead: ["bad", "dead: it ended without saying so"], never: ["bad", "never ran here"],
};
const EVERY_MS = 2000;
const SLOW_EVERY = 3;
const TIMEOUT_MS = 8000;

const byId = (id) => document.getElementById(id);
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
let range = "24h";
let isShown = false;
let answeredAt = null;
let round = 0;

function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in element) element[key] = value; else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function draw(name, attributes = {}, text = null) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  return element;
}

function figure(value) {
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e15) return value.toLocaleString("en-US");
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(1).replace("e+", "e");
  return Number(value.toPrecision(size >= 1000 ? 5 : 3)).toLocaleString("en-US", { maximumFractionDigits: 6 });
}

function ago(seconds) {
  if (!isNumber(seconds)) return "–";
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86400).toFixed(1)} d`;
}

function clock(seconds, span) {
  const two = (number) => String(number).padStart(2, "0");
  const at = new Date(seconds * 1000);
  const day = `${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  const time = `${two(at.getHours())}:${two(at.getMinutes())}`;
  if (span > 3 * 86400) return span > 300 * 86400 ? `${at.getFullYear()}-${day}` : day;
  if (span > 86400) return `${day} ${time}`;
  return span < 900 ? `${time}:${two(at.getSeconds())}` : time;
}

const moment = (seconds) => (isNumber(seconds) ? new Date(seconds * 1000).toLocaleString() : "–");
const sum = (counts) => Object.values(counts || {}).reduce((total, count) => total + count, 0);

function ticks(low, high, most) {
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) found.push(Math.abs(value) < step * 1e-9 ? 0 : value);
  return found;
}

function timeTicks(first, last, most) {
  const steps = [1, 5, 15, 30, 60, 300, 900, 1800, 3600, 10800, 21600, 43200, 86400, 172800, 604800, 1209600, 2592000, 7776000, 15552000, 31536000];
  const step = steps.find((length) => (last - first) / length <= most) || steps.at(-1);
  const zone = new Date(last * 1000).getTimezoneOffset() * 60;
  const found = [];
  for (let at = Math.ceil((first - zone) / step) * step + zone; at <= last; at += step) found.push(at);
  return found;
}

// A pause much longer than usual is a gap, not a slope.
function segments(points) {
  const gaps = points.slice(1).map((point, index) => point.at - points[index].at).sort((a, b) => a - b);
  const usual = gaps.length ? gaps[Math.floor(gaps.length / 2)] : 0;
  const longest = Math.max(20 * usual, 60);
  const found = [];
  points.forEach((point, index) => {
    if (index === 0 || point.at - points[index - 1].at > longest) found.push([]);
    found.at(-1).push(point);
  });
  return found;
}

class Chart {
  constructor(settings) {
    this.settings = settings;
    this.height = settings.wide ? 220 : 130;
    this.value = make("span", { className: "chart-value" }, "–");
    this.place = make("div");
    this.card = make("article", { className: settings.wide ? "card wide" : "card" },
      make("div", { className: "chart-head" }, make("h2", {}, settings.title), this.value),
      make("p", { className: "chart-why" }, settings.why), this.place);
    this.points = [];
    new ResizeObserver(() => this.render()).observe(this.place);
  }

  show(columns, since, until) {
    const { key, band, unit = "" } = this.settings;
    const low = band && columns[band[0]], high = band && columns[band[1]];
    this.points = (columns.at || []).map((at, i) => ({ at, y: columns[key][i], low: low ? low[i] : null, high: high ? high[i] : null, version: columns.version[i] }))
      .filter((point) => isNumber(point.y));
    this.bounds = [since || (this.points.length ? this.points[0].at : until - 1), until];
    this.value.textContent = this.points.length ? figure(this.points.at(-1).y) + unit : "–";
    this.render();
  }

  scales(width) {
    const left = 52, right = 10, top = 8, bottom = 22;
    const values = this.points.flatMap((p) => [p.y, p.low, p.high]).filter(isNumber);
    let low = Math.min(...values), high = Math.max(...values);
    if (this.settings.zero) low = Math.min(low, 0);
    if (high - low < 1e-12 * Math.max(1, Math.abs(high))) { const pad = Math.abs(high) * 0.1 || 1; low -= this.settings.zero && low === 0 ? 0 : pad; high += pad; }
    else { const pad = (high - low) * 0.06; high += pad; low -= this.settings.zero && low === 0 ? 0 : pad; }
    // Curves of the last minutes fill the chart, however long the range is.
    const span = Math.max(this.bounds[1] - this.points[0].at, 1);
    const first = span < (this.bounds[1] - this.bounds[0]) / 2 ? this.points[0].at : this.bounds[0];
    const last = Math.max(this.bounds[1], this.points.at(-1).at);
    return {
      left, right, top, bottom, low, high, first, last,
      x: (at) => left + (at - first) / Math.max(last - first, 1e-9) * (width - left - right),
      y: (value) => top + (high - value) / (high - low) * (this.height - top - bottom),
    };
  }

  render() {
    const width = this.place.clientWidth;
    if (!width) return;
    if (!this.points.length) {
      const empty = make("div", { className: "empty" }, "no figure in this time");
      empty.style.height = `${this.height}px`;
      this.place.replaceChildren(empty);
      return;
    }
    const s = this.scales(width);
    const svg = draw("svg", { viewBox: `0 0 ${width} ${this.height}`, height: this.height, role: "img", "aria-label": `${this.settings.title}: ${this.value.textContent}` });
    this.axes(svg, s, width);
    for (const part of segments(this.points)) this.curve(svg, s, part);
    const newest = this.points.at(-1);
    svg.append(draw("circle", { class: "dot", cx: s.x(newest.at), cy: s.y(newest.y), r: 4.5 }));
    this.hover(svg, s, width);
    this.place.replaceChildren(svg);
  }

  axes(svg, s, width) {
    for (const value of ticks(s.low, s.high, this.settings.wide ? 5 : 3)) {
      svg.append(draw("line", { class: "grid", x1: s.left, x2: width - s.right, y1: s.y(value), y2: s.y(value) }));
      svg.append(draw("text", { x: s.left - 7, y: s.y(value) + 4, "text-anchor": "end" }, figure(value)));
    }
    const floor = this.height - s.bottom;
    svg.append(draw("line", { class: "base", x1: s.left, x2: width - s.right, y1: floor, y2: floor }));
    for (const at of timeTicks(s.first, s.last, Math.max(2, Math.floor(width / 110)))) {
      const x = Math.min(s.x(at), width - s.right - 22);
      svg.append(draw("text", { x, y: this.height - 6, "text-anchor": "middle" }, clock(at, s.last - s.first)));
    }
  }

  curve(svg, s, part) {
    const path = (list, value) => list.map((p) => `${s.x(p.at).toFixed(1)},${s.y(value(p)).toFixed(1)}`);
    const banded = part.filter((p) => isNumber(p.low) && isNumber(p.high));
    if (banded.length > 1) {
      const edge = [...path(banded, (p) => p.high), ...path([...banded].reverse(), (p) => p.low)];
      svg.append(draw("path", { class: "band", d: `M${edge.join("L")}Z` }));
    }
    if (part.length > 1) svg.append(draw("path", { class: "line", d: `M${path(part, (p) => p.y).join("L")}` }));
    else svg.append(draw("circle", { class: "dot", cx: s.x(part[0].at), cy: s.y(part[0].y), r: 3.5 }));
  }

  hover(svg, s, width) {
    const cross = draw("g", { visibility: "hidden" });
    const line = draw("line", { class: "cross", y1: s.top, y2: this.height - s.bottom });
    const dot = draw("circle", { class: "dot", r: 4.5 });
    cross.append(line, dot);
    svg.append(cross);
    const newest = this.value.textContent;
    svg.addEventListener("pointermove", (event) => {
      const at = s.first + (event.clientX - svg.getBoundingClientRect().left - s.left) / (width - s.left - s.right) * (s.last - s.first);
      const point = this.points.reduce((best, one) => (Math.abs(one.at - at) < Math.abs(best.at - at) ? one : best));
      for (const end of ["x1", "x2"]) line.setAttribute(end, s.x(point.at));
      dot.setAttribute("cx", s.x(point.at));
      dot.setAttribute("cy", s.y(point.y));
      cross.setAttribute("visibility", "visible");
      this.value.textContent = `${figure(point.y)}${this.settings.unit || ""} · version ${figure(point.version)} · ${moment(point.at)}`;
    });
    svg.addEventListener("pointerleave", () => { cross.setAttribute("visibility", "hidden"); this.value.textContent = newest; });
  }
}

const charts = CHARTS.map((settings) => new Chart(settings));
byId("charts").append(...charts.map((chart) => chart.card));

function tile(name, value, note) {
  return make("div", { className: "card" }, make("div", { className: "tile-name" }, name),
    make("div", { className: "tile-value" }, value), make("div", { className: "note" }, note));
}

function showStatus(status) {
  const { daemon, policy, episodes, learning, latency, process } = status;
  const worrying = status.alarms.some((alarm) => alarm.level !== "notice");
  const [level, word] = STATES[daemon.state] || ["bad", daemon.state];
  const held = daemon.holds.map((hold) => hold.message + (isNumber(hold.until) ? `, until ${moment(hold.until)}` : ""));
  byId("state").className = `state ${level === "good" && (worrying || held.length) ? "warn" : level}`;
  byId("state").textContent = [level === "good" && worrying ? `${word}, with an alarm` : word, ...held].join("; ");
  byId("daemon").textContent = isNumber(daemon.uptime_s)
    ? `for ${ago(daemon.uptime_s)}, pid ${daemon.pid}, ${daemon.device}`
    : isNumber(process.written_at) ? `last sign of life ${moment(process.written_at)}, ${ago(process.silent_s)} ago` : "";
  document.title = `${policy.version === null ? "" : `v${policy.version} · `}${daemon.state} · learnerd`;
  const now = isNumber(process.written_at) ? process.written_at + process.silent_s : Date.now() / 1000;
  const age = isNumber(policy.published_at) ? `published ${ago(Math.max(0, now - policy.published_at))} ago` : "none yet";
  const waiting = isNumber(episodes.oldest_pending_age_s) ? `files; the oldest for ${ago(episodes.oldest_pending_age_s)}` : "files";
  byId("tiles").replaceChildren(
    tile("Version", figure(policy.version), age),
    tile("Return", figure(learning.return_mean_100), "mean of the last 100 episodes"),
    tile("Learned", figure(episodes.learned), `episodes, in ${figure(learning.updates)} updates`),
    tile("Refused", figure(sum(episodes.refused)), `episodes; quarantined: ${figure(sum(episodes.quarantined))}`),
    tile("Waiting", figure(episodes.pending), waiting),
    tile("Lag", isNumber(latency.drop_to_publish_p50_s) ? `${figure(latency.drop_to_publish_p50_s)} s` : "–", "from drop to publish, half of the files"),
  );
  byId("alarms").replaceChildren(...status.alarms.map((alarm) => make("div",
    { className: alarm.level === "notice" ? "alarm notice" : "alarm" },
    make("strong", {}, `${alarm.level === "notice" ? "Notice" : "Alarm"}: ${alarm.message}`), make("br"),
    make("span", {}, `What to do: ${alarm.remedy}`), make("div", { className: "note" }, `${alarm.id}, since ${moment(alarm.since)}`))));
  showRefusals(episodes);
}

function table(heads, rows) {
  return make("table", {}, make("thead", {}, make("tr", {}, ...heads.map(([name, kind]) => make("th", { className: kind, scope: "col" }, name)))),
    make("tbody", {}, ...rows.map((cells) => make("tr", {}, ...cells.map((cell, i) => make("td", { className: heads[i][1] }, cell))))));
}

function showRefusals(episodes) {
  const rows = [["refused", episodes.refused], ["quarantined", episodes.quarantined]].flatMap(
    ([what, counts]) => Object.entries(counts || {}).map(([reason, count]) => ({ what, reason, count })));
  rows.sort((a, b) => b.count - a.count);
  const most = Math.max(1, ...rows.map((row) => row.count));
  byId("refusals").replaceChildren(rows.length ? table([["reason", ""], ["", "note"], ["", "fill"], ["count", "number"]], rows.map((row) => {
    const bar = make("span", { className: "bar" });
    bar.style.width = `${row.count / most * 100}%`;
    return [row.reason, row.what, bar, figure(row.count)];
  })) : make("p", { className: "note" }, "none"));
}

function showVersions(rows) {
  const now = Date.now() / 1000;
  const heads = [["version", "number"], ["", ""], ["saved", ""], ["writer", ""], ["parents", ""], ["episodes", "number"], ["updates", "number"]];
  byId("versions").replaceChildren(rows.length ? table(heads, rows.slice(0, 10).map((row) => [
    figure(row.version), standing(row), isNumber(row.saved_at) ? `${ago(Math.max(0, now - row.saved_at))} ago` : "–", String(row.writer ?? "–"),
    (row.parents || []).join(", "), figure(row.episodes_total), figure(row.updates_total),
  ])) : make("p", { className: "note" }, "no version yet"));
}

function standing(row) {
  const text = [row.standing, isNumber(row.rollback_to) ? `rollback to ${row.rollback_to}` : ""].filter(Boolean).join(", ");
  return text ? make("span", { className: `mark ${row.standing}`, title: (row.damage || []).join("; ") }, text) : "";
}

async function get(path) {
  const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (response.status === 401) location.reload();
  if (!response.ok) throw new Error(`${response.status}`);
  return response.json();
}

async function showHistory() {
  const asked = range;
  const found = await get(`/history.json?range=${asked}`);
  if (asked !== range) return;
  isShown = true;
  byId("ranges").querySelector(".note").textContent = found.problem || "";
  for (const chart of charts) chart.show(found.columns, found.since, found.until);
}

async function look() {
  try {
    showStatus(await get("/status.json"));
    if (round % SLOW_EVERY === 0 || !isShown) {
      await showHistory();
      showVersions(await get("/versions.json"));
    }
    round += 1;
    answeredAt = Date.now();
    byId("answer").className = "note push";
    byId("answer").textContent = `live, ${new Date(answeredAt).toLocaleTimeString()}`;
  } catch (error) {
    const since = answeredAt === null ? "" : ` since ${new Date(answeredAt).toLocaleTimeString()}`;
    byId("answer").className = "state bad push";
    byId("answer").textContent = `no answer${since}: the daemon has ended, or cannot be reached; what is shown is old`;
  }
}

byId("ranges").append(...RANGES.map(([name, text]) => {
  const button = make("button", { type: "button" }, text);
  button.setAttribute("aria-pressed", String(name === range));
  button.addEventListener("click", () => {
    range = name;
    for (const other of byId("ranges").querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
    showHistory().catch(() => {});
  });
  return button;
}), make("span", { className: "note" }));

async function run() {
  if (!document.hidden) await look();
  setTimeout(run, EVERY_MS);
}
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
run();

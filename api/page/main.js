// Wiring: the controls change the state, the pollers ask for it, and the parts show the answers.

import { Client, RequestError } from "./client.js";
import { Detail } from "./detail.js";
import { byId, isolated, setText } from "./dom.js";
import { Facts } from "./facts.js";
import { formatClock, formatCount, formatDuration } from "./format.js";
import { KeyDialog } from "./key.js";
import { Poller } from "./poller.js";
import { formatState, GROUPINGS, parseState, PERIODS } from "./state.js";
import { idOf, Table } from "./table.js";
import { Trends } from "./trends.js";
import { Workers } from "./workers.js";

const LIST = "api/v1/interaction-summary";
const LIST_MS = 2_000;
const DETAIL_MS = 10_000;
const WORKERS_MS = 2_000;
const SORT_WORDS = {
  total: "total",
  impression: "impressions",
  click: "clicks",
  convert: "conversions",
  ctr: "CTR",
  cvr: "CVR",
};

let state = parseState(location.search);
let shown = null; // the last answer of the list
let paused = false;
let updatedAt = null;

const keys = new KeyDialog(changeKey);
const client = new Client(
  () => keys.get(),
  () => state.tenant,
);
const facts = new Facts(announce);
const table = new Table({ onSort: (sort) => change({ sort, offset: 0 }), onSelect: select });
const trends = new Trends(client, (id, points) => table.setTrend(id, points));
const detail = new Detail(client, { names: (id) => table.nameOf(id), onClose: () => select(state.id) });
const workers = new Workers(client);
const pollers = {
  list: new Poller(loadList, { everyMs: LIST_MS, onError: listFailed }),
  detail: new Poller(loadDetail, { everyMs: DETAIL_MS, onError: detailFailed }),
  workers: new Poller(loadWorkers, { everyMs: WORKERS_MS, onError: workersFailed }),
};

// --- the list

async function loadList(signal) {
  const { groupBy, days, sort, limit, offset } = state;
  const parameters = { groupBy, days, limit, offset };
  if (sort !== "total") parameters.sort = sort;
  const key = JSON.stringify(parameters);
  const found = await client.get(LIST, parameters, { etag: shown?.key === key ? shown.etag : null, signal });
  const data = found.data ?? shown.data;
  if (offset > 0 && !data.summary.length) {
    // There are fewer rows than before, or the address names a page that does not exist.
    change({ offset: Math.max(0, Math.floor((data.total - 1) / limit) * limit) }, { replace: true });
    return;
  }
  shown = { key, etag: found.etag, data, sort };
  updatedAt = Date.now();
  facts.show(found.headers);
  if (found.data) showList(data, sort);
  byId("table-frame").removeAttribute("aria-busy");
  showProblem("");
  showLive("live", "Live");
  wantTrends();
  runWorkers();
}

function showList(data, sort) {
  table.render(data, { sort, selected: state.id });
  detail.title();
  const { many } = GROUPINGS[data.groupBy];
  setText(byId("caption"), `${many}, ${PERIODS[state.days].words}, by ${SORT_WORDS[sort]}`);
  document.title = `${many}, ${PERIODS[state.days].words} · Interaction Summary`;
  byId("empty").hidden = data.summary.length > 0;
  byId("table-frame").hidden = data.summary.length === 0;
  const first = data.offset + 1;
  const last = data.offset + data.summary.length;
  setText(byId("range"), data.total ? `${formatCount(first)}–${formatCount(last)} of ${formatCount(data.total)}` : "");
  byId("pages").hidden = data.total === 0;
  byId("previous").setAttribute("aria-disabled", String(data.offset === 0));
  byId("next").setAttribute("aria-disabled", String(last >= data.total));
}

function listFailed(error, waitMs) {
  if (needsKey(error)) return;
  expect(error);
  if (error.status === 400 && state.sort !== "total") {
    const wanted = SORT_WORDS[state.sort];
    change({ sort: "total" }, { replace: true });
    showNotice(`Not sorted by ${wanted}: ${error.message}.`);
    return;
  }
  const since = updatedAt ? ` The numbers are those of ${formatClock(updatedAt)}.` : "";
  if (error.status === 403 || error.status === 400) {
    pollers.list.stop();
    showLive("problem", "Stopped");
    showProblem(`The API refuses this: ${error.message}.${since}`);
    return;
  }
  const wait = formatDuration(Math.ceil(waitMs / 1_000) * 1_000);
  const reason =
    error.status === 429 ? `Too many requests with this API key: ${error.message}` : `No answer: ${error.message}`;
  showLive("problem", "Waiting");
  showProblem(`${reason}. Next attempt in ${wait}.${since}`);
}

// --- the days of one group, and of the rows

async function loadDetail(signal) {
  await detail.load(state, signal);
}

function detailFailed(error) {
  if (needsKey(error)) return;
  expect(error);
  detail.fail(`The days cannot be shown now: ${error.message}.`);
}

function wantTrends() {
  trends.want(state.groupBy, PERIODS[state.days].chartDays, shown.data.summary.map(idOf));
}

// --- workers

async function loadWorkers(signal) {
  await workers.load(signal);
}

function workersFailed(error) {
  if (needsKey(error)) return;
  expect(error);
  workers.refused = error.status === 403;
  if (workers.refused) pollers.workers.stop();
  workers.fail(workers.refused ? `Not shown: ${error.message}.` : `Not known now: ${error.message}.`);
}

// --- what the user does

/** Show another part of the state; `replace`: without an entry in the history of the tab. */
function change(changes, { replace = false } = {}) {
  state = { ...state, ...changes };
  if (replace) history.replaceState(null, "", location.pathname + formatState(state));
  else history.pushState(null, "", location.pathname + formatState(state));
  apply();
}

/** Ask for the state, and set the controls to it. */
function apply() {
  byId(`group-${state.groupBy}`).checked = true;
  byId(`days-${state.days}`).checked = true;
  byId("limit").value = String(state.limit);
  setText(byId("tenant"), state.tenant ? `Tenant ${state.tenant}` : "");
  showNotice("");
  byId("table-frame").setAttribute("aria-busy", "true");
  paused = false;
  run();
}

function select(id) {
  const chosen = state.id === id ? null : id;
  state = { ...state, id: chosen };
  history.pushState(null, "", location.pathname + formatState(state));
  table.select(chosen);
  announce(chosen === null ? "Days of all interactions" : `Days of ${table.nameOf(chosen)}`);
  pollers.detail.start();
  const { top, bottom } = detail.section.getBoundingClientRect();
  if (chosen === null) table.focus(id);
  else if (top < 0 || bottom > innerHeight) detail.section.scrollIntoView({ block: "nearest" });
}

for (const input of document.querySelectorAll("input[name=group]")) {
  input.addEventListener("change", () => change({ groupBy: input.value, offset: 0, id: null }));
}
for (const input of document.querySelectorAll("input[name=days]")) {
  input.addEventListener("change", () => change({ days: Number(input.value), offset: 0 }));
}
byId("limit").addEventListener("change", (event) => change({ limit: Number(event.target.value), offset: 0 }));
byId("previous").addEventListener("click", () => turn(-1));
byId("next").addEventListener("click", () => turn(1));
byId("pause").addEventListener("click", () => {
  paused = !paused;
  run();
});
byId("notice-close").addEventListener("click", () => showNotice(""));
workers.panel.addEventListener("toggle", runWorkers);
addEventListener("popstate", () => {
  state = parseState(location.search);
  apply();
});
document.addEventListener("visibilitychange", run);

function turn(direction) {
  const button = byId(direction < 0 ? "previous" : "next");
  if (button.getAttribute("aria-disabled") === "true") return;
  change({ offset: Math.max(0, state.offset + direction * state.limit) });
  byId("table-frame").scrollTop = 0;
}

function changeKey() {
  shown = updatedAt = null;
  workers.refused = false;
  table.clear();
  trends.clear();
  client.reset();
  for (const poller of Object.values(pollers)) poller.reset();
  keys.show(false);
  apply();
}

// --- running and telling

/** Start what should run now, and stop the rest: nothing does while the page is hidden or paused. */
function run() {
  const active = !paused && !document.hidden;
  setText(byId("pause"), paused ? "Resume" : "Pause");
  if (!active) {
    for (const poller of Object.values(pollers)) poller.stop();
    trends.stop();
    if (paused) showLive("paused", "Paused");
    return;
  }
  pollers.list.start();
  pollers.detail.start();
  runWorkers();
}

/** Ask for the workers where that is no refusal: without keys everybody is admin. */
function runWorkers() {
  const wanted = workers.open || (shown !== null && !keys.get());
  if (!wanted || paused || document.hidden) pollers.workers.stop();
  else if (!pollers.workers.running && !workers.refused) pollers.workers.start();
}

/** Ask for a key if the API wants one. Return whether it does. */
function needsKey(error) {
  if (error.status !== 401) return false;
  for (const poller of Object.values(pollers)) poller.stop();
  trends.stop();
  showLive("problem", "No key");
  showProblem(`An API key is needed: ${error.message}.`);
  const refused = keys.drop();
  keys.show(true);
  keys.ask(refused ? `${error.message}.` : "");
  return true;
}

/** Throw what is not an error of a request: it is a bug, and belongs in the console. */
function expect(error) {
  if (!(error instanceof RequestError)) throw error;
}

function showLive(kind, words) {
  byId("live").className = `live is-${kind}`;
  setText(byId("live-text"), words);
}

function showProblem(text) {
  if (byId("problem").textContent === text) return;
  byId("problem").hidden = text === "";
  setText(byId("problem"), text);
  if (text) announce(text);
}

function showNotice(text) {
  byId("notice").hidden = text === "";
  byId("notice-text").replaceChildren(isolated(text));
  if (text) announce(text);
}

/** Tell a screen reader, once it is done with what it says. */
function announce(text) {
  byId("announcement").replaceChildren(isolated(text));
}

apply();

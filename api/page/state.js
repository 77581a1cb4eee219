// What the page shows: kept in the address, so that a reload or a bookmark shows the same.

export const GROUPINGS = {
  action: { one: "action", many: "Actions" },
  treatment: { one: "treatment", many: "Treatments" },
  channel: { one: "channel", many: "Channels" },
  customer: { one: "customer", many: "Customers" },
};

/** `days` of the API -> its words, and the days of the chart. */
export const PERIODS = {
  1: { words: "today", chartDays: 7 },
  7: { words: "last 7 days", chartDays: 7 },
  31: { words: "last 31 days", chartDays: 31 },
  32: { words: "all time", chartDays: 31 },
};

export const SORTS = ["total", "impression", "click", "convert", "ctr", "cvr"];
export const LIMITS = [25, 100, 500];

const DEFAULTS = { groupBy: "action", days: 7, sort: "total", limit: 25, offset: 0 };
const TENANT = /^[A-Za-z0-9_.-]{1,64}$/;
const ID_CHARS_MAX = 128;

/** Return the state that an address names; what it does not name, or not well, is the default. */
export function parseState(search) {
  const given = new URLSearchParams(search);
  const whole = (name) => (/^\d{1,15}$/.test(given.get(name) ?? "") ? Number(given.get(name)) : NaN);
  const state = { ...DEFAULTS, tenant: null, id: null };
  if (Object.hasOwn(GROUPINGS, given.get("groupBy"))) state.groupBy = given.get("groupBy");
  if (Object.hasOwn(PERIODS, given.get("days"))) state.days = whole("days");
  if (SORTS.includes(given.get("sort"))) state.sort = given.get("sort");
  if (LIMITS.includes(whole("limit"))) state.limit = whole("limit");
  if (whole("offset") > 0) state.offset = whole("offset");
  if (TENANT.test(given.get("tenant") ?? "")) state.tenant = given.get("tenant");
  const id = given.get("id") ?? "";
  if (id && id.length <= ID_CHARS_MAX) state.id = id;
  return state;
}

/** Return the query of the address for `state`, without what is the default. */
export function formatState(state) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (value !== null && value !== DEFAULTS[name]) query.set(name, value);
  }
  return query.size ? `?${query}` : "";
}

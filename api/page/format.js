// Numbers and dates as people read them. The language of the page is English everywhere.

const LANGUAGE = "en";
const whole = new Intl.NumberFormat(LANGUAGE);
const short = new Intl.NumberFormat(LANGUAGE, { notation: "compact", maximumFractionDigits: 1 });
const oneDigit = new Intl.NumberFormat(LANGUAGE, { maximumFractionDigits: 1 });
const twoDigits = new Intl.NumberFormat(LANGUAGE, {
  minimumFractionDigits: 2,
  maximumFractionDigits: 2,
});
// A date of the API is a calendar day, not an instant: it must not move with the browser's zone.
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
const longDay = new Intl.DateTimeFormat("en-GB", {
  weekday: "short",
  day: "numeric",
  month: "short",
  year: "numeric",
  timeZone: "UTC",
});
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

export const formatCount = (n) => whole.format(n);
export const formatShort = (n) => short.format(n);
export const formatPercent = (n) => `${twoDigits.format(n)}\u202f%`;
export const formatRate = (n) => oneDigit.format(n);
export const formatDay = (date) => day.format(new Date(`${date}T00:00:00Z`));
export const formatLongDay = (date) => longDay.format(new Date(`${date}T00:00:00Z`));
export const formatClock = (ms) => clock.format(new Date(ms));

/** Return how long `ms` is, in its largest unit. */
export function formatDuration(ms) {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  const seconds = ms / 1_000;
  if (seconds < 10) return `${oneDigit.format(seconds)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7_200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3_600)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}

/** Return "1 row" or "2 rows". */
export function formatPlural(n, one, many = `${one}s`) {
  return `${formatCount(n)} ${n === 1 ? one : many}`;
}

/** Return 100 * part / whole; 0 where there is no whole, as the API does. */
export function percent(part, total) {
  return total ? (100 * part) / total : 0;
}

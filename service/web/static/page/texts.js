/** Texts of the page's language, and numbers and times as that language writes them. */

const root = document.documentElement;
export const language = root.lang;

const answer = await fetch(new URL(`../texts/${language}.json`, import.meta.url));
const catalogue = await answer.json();
const plural = new Intl.PluralRules(language);

/** The text of a key with its `{values}`. With `count`, the key's `.one` or `.other` form. */
export function text(key, values = {}) {
  const form = "count" in values && !(key in catalogue) ? `${key}.${plural.select(values.count)}` : key;
  const found = catalogue[form] ?? catalogue[`${key}.other`] ?? key;
  return found.replace(/\{(\w+)\}/g, (whole, name) => {
    const value = values[name];
    return typeof value === "number" ? number(value) : isolated(String(value ?? whole));
  });
}

const RIGHT_TO_LEFT = /[\u0590-\u08ff\u200f\u202a-\u202e\u2066-\u2069\ufb1d-\ufdff\ufe70-\ufefc]|[\ud802-\ud803\ud83a-\ud83b]/;

/** A text from right to left, isolated (Unicode, annex 9), so that it turns nothing beside it. Others are unchanged. */
export const isolated = (value) => (RIGHT_TO_LEFT.test(value) ? `\u2068${value}\u2069` : value);

/** The text of a key; `otherwise` if the catalogue has none, as for classes of another model. */
export const textOr = (key, otherwise) => catalogue[key] ?? otherwise;

/** The full name of a class. */
export const className = (code, name) => textOr(`class.${code}`, name ?? code);

/** The browser's region of the page's language, for numbers and dates. */
const locale = navigator.languages.find((each) => each.split("-")[0] === language) ?? language;
const integers = new Intl.NumberFormat(locale);
const percents = new Intl.NumberFormat(locale, { style: "percent", maximumFractionDigits: 0 });
const ONE_DIGIT = { minimumFractionDigits: 1, maximumFractionDigits: 1 };
const oneDigits = new Intl.NumberFormat(locale, ONE_DIGIT);
const hundredths = new Intl.NumberFormat(locale, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const signed = new Intl.NumberFormat(locale, { signDisplay: "exceptZero", ...ONE_DIGIT });
const precisePercents = new Intl.NumberFormat(locale, { style: "percent", ...ONE_DIGIT });
const times = new Intl.DateTimeFormat(locale, {
  dateStyle: "medium",
  timeStyle: "short",
  timeZone: root.dataset.timeZone || undefined, // the laboratory's zone, else the browser's
});

const clock = new Intl.DateTimeFormat(locale, { timeStyle: "short", timeZone: root.dataset.timeZone || undefined });

export const number = (value) => integers.format(value);
/** A probability 0..1 as "93 %". Values that round to 100 % but are not certain are "> 99 %". */
export const percent = (share) =>
  share < 1 && share >= 0.995 ? `> ${percents.format(0.99)}` : percents.format(share);
/** The same with one digit: "99.8 %". */
export const precisePercent = (share) => precisePercents.format(share);
/** A number with one digit. */
export const oneDigit = (value) => oneDigits.format(value);
/** A number with two digits. */
export const twoDigits = (value) => hundredths.format(value);
/** A number with one digit and its sign: "+0.2". */
export const signedDigit = (value) => signed.format(value);
/** A difference of two shares in percentage points, with its sign: "+0.2". */
export const points = (difference) => signed.format(100 * difference);
export const dateTime = (value) => times.format(new Date(value));
/** The time of day: "10:15". */
export const timeOfDay = (value) => clock.format(new Date(value));
/** A calendar day "1964-08-12", which is of no time zone. */
export const day = (value) => new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeZone: "UTC" }).format(new Date(value));

const ages = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
const UNITS = [["day", 86_400], ["hour", 3_600], ["minute", 60]]; // prettier-ignore

/** How long ago a time is: "3 hours ago". */
export function ago(value) {
  const seconds = Math.max(0, (Date.now() - new Date(value)) / 1000);
  const [unit, length] = UNITS.find(([, size]) => seconds >= size) ?? ["minute", 60];
  return ages.format(-Math.floor(seconds / length), unit);
}
/** "A, B or C" in the page's language. */
export const alternatives = (items) => new Intl.ListFormat(language, { type: "disjunction" }).format(items);
/** "A, B and C" in the page's language. */
export const list = (items) => new Intl.ListFormat(language, { type: "conjunction" }).format(items);

/** Elements and numbers: how the page is put together and how it writes what the service counts. */

/**
 * An element. Text comes in as text, never as HTML: names of files, tags and ids come from strangers.
 * `settings`: attributes by name; `on` holds listeners by event, `vars` custom properties of CSS.
 */
export function el(name, { on = {}, vars = {}, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  for (const [event, listener] of Object.entries(on)) made.addEventListener(event, listener);
  for (const [key, value] of Object.entries(vars)) made.style.setProperty(`--${key}`, String(value));
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** A button that submits nothing. */
export const button = (text, listener, attributes = {}) =>
  el("button", { type: "button", on: { click: listener }, ...attributes }, text);

/** An id that no other element of the page has. */
export const newId = ((last) => () => `e${(last += 1)}`)(0);

const IN_FIGURES = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const ROUNDED = new Intl.NumberFormat("en", { maximumFractionDigits: 2, minimumFractionDigits: 2 });

/** A number in its own unit: four digits, and all of those before the point. */
export function number(value, unit = null) {
  const told = Math.abs(value) >= 1e4 ? Math.round(value).toLocaleString("en") : IN_FIGURES.format(value);
  return unit ? `${told} ${unit}` : told;
}

/** A score or a similarity, with two digits. */
export const fraction = (value) => ROUNDED.format(value);

/** A probability: `34%`, `3.4%`, `<0.1%`. */
export function percent(value) {
  if (value > 0 && value < 0.0005) return "<0.1%";
  return `${(value * 100).toFixed(value < 0.0995 && value > 0 ? 1 : 0)}%`;
}

/** The size of a file: `3.4 MB`. */
export function size(bytes) {
  if (bytes < 1024) return counted(bytes, "byte");
  const step = bytes < 1024 ** 2 ? ["KB", 1024] : ["MB", 1024 ** 2];
  return `${number(Number((bytes / step[1]).toPrecision(3)))} ${step[0]}`;
}

/** `1 picture`, `3 pictures`. */
export const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

/** A range of numbers with the dash that ranges have: `70–100`, `7–12,000`; other names as they are. */
export const range = (name) => name.replace(/^(-?[\d.e+]+|-∞)-(-?[\d.e+]+|∞)$/,
  (_, from, to) => `${grouped(from)}–${grouped(to)}`);

const grouped = (text) => text.replace(/^-?\d{5,}$/, (digits) => BigInt(digits).toLocaleString("en"));

/** A name, with the places at which a line may end before one ends within a word. */
export const breakable = (name) => name.split(/(?<=[_/])|(?=\.[a-z])/i)
  .flatMap((part, i) => (i ? [el("wbr"), part] : [part]));

/**
 * What a head says, as a panel: drawn by the form of the answer and not by the kind of the head, so that a
 * new kind whose answers have probabilities, a value or tags is shown like the others, and whatever else it
 * says as a list of names and values.
 */

import { breakable, button, el, fraction, newId, number, percent, range } from "./dom.js";

const FIRST = 20; // tags or classes that are shown at once
const LEAST_FULL = 0.25; // a probability that fills the bar, where none is larger
const NAMED = 3; // tags in a line
const LONG = 20; // characters of a name that stays on one line, of an answer in the largest letters

/** What a head says in a few words: `70–100`. */
export function headline(said, names, unit = null) {
  if (said.tags) return said.tags.length ? said.tags.slice(0, NAMED).join(", ") : "no tag";
  if ("yes" in said) return said.yes ? "yes" : "no";
  if ("class" in said) return said.class;
  if ("bin" in said) return range(said.label ?? names[said.bin] ?? String(said.bin));
  if ("value" in said) return number(said.value, unit);
  if ("reward" in said) return `${said.reward < 0 ? "" : "+"}${fraction(said.reward)}`;
  const first = Object.entries(said).find(([, value]) => typeof value !== "object");
  return first ? `${first[0]} ${plain(first[1])}` : "";
}

/** The names of a head's bins or classes, from its legend `{"0": "0-10", …}`. */
export const namesOf = (legend) => Object.keys(legend ?? {}).map((bin) => legend[bin]);

/**
 * The panel of one head. `info`: what `/model` says of it; `said`: its answer; `names`: of its bins;
 * `map`: a button and a figure that show where it looks, or null.
 */
export function panel(info, said, names, map = null) {
  const title = info.title || info.name;
  const id = newId();
  const answer = headline(said, names, info.unit);
  return el("div", { class: "head", role: "group", "aria-labelledby": id },
    el("div", { class: "head-top" }, el("h4", { id }, title), map?.button),
    el("p", { class: answer.length > LONG ? "headline long" : "headline" },
      el("b", {}, breakable(answer)), " ", beside(said, names)),
    facts(info, said, names),
    map?.figure,
    score(said),
    bars(title, said, names),
    rest(said));
}

/** What stands beside the headline: how probable it is, or how far off it may be. */
function beside(said, names) {
  const soft = (text) => el("span", { class: "soft" }, text);
  if (said.tags) return said.tags.length > NAMED ? soft(`and ${said.tags.length - NAMED} more`) : null;
  if ("yes" in said) return soft(`${percent(said.prob)} yes`);
  if ("class" in said) return soft(percent(said.prob));
  if ("bin" in said && said.probs) return soft(percent(said.probs[said.bin]));
  const off = said.std ?? said.residual_std;
  if (typeof off === "number") return soft(`± ${number(Number(off.toPrecision(2)))}`);
  return null;
}

/** A line of further numbers. */
function facts(info, said, names) {
  const lines = [];
  if ("expected" in said) lines.push(`expected ${number(said.expected, info.unit)}`);
  if ("median" in said && said.median !== said.bin) lines.push(`median ${range(names[said.median])}`);
  if (typeof said.residual_std === "number") lines.push("± is how far labels lie from such answers");
  if (said.std !== undefined) lines.push("mean ± standard deviation");
  if ("yes" in said && said.yes !== said.prob >= 0.5) {
    lines.push(`the threshold for yes is ${said.yes ? "at most" : "above"} ${percent(said.prob)}`);
  }
  return lines.length ? el("p", { class: "soft facts" }, lines.join(" · ")) : null;
}

/** The score, 0 to 1, as a place on a line and in words. */
function score(said) {
  if (typeof said.score !== "number") return null;
  const among = "reward" in said ? "pictures compared" : "training pictures";
  return el("div", { class: "score" },
    el("span", { class: "scale", "aria-hidden": "true", vars: { at: said.score } }),
    el("p", { class: "soft" }, el("b", {}, `score ${fraction(said.score)}`), " ",
      el("span", {}, `${place(said.score)} ${among}`)));
}

/** A share of pictures in words, as far as it is known. */
function place(share) {
  if (share >= 0.995) return "above nearly all";
  return share < 0.005 ? "below nearly all" : `above about ${percent(Math.round(share * 100) / 100)} of`;
}

/** Probabilities as rows of a table, each with a bar; null where an answer has none. */
function bars(title, said, names) {
  const rows = rowsOf(said, names);
  if (!rows) return null;
  if (!rows.length) return el("p", { class: "soft" }, "No tag is probable enough to be said.");
  const body = el("tbody", {}, rows.slice(0, FIRST).map(row));
  const table = el("table", { class: "bars" },
    el("caption", { class: "unseen" }, `${title}: probability of each ${said.tags ? "tag" : "answer"}`),
    el("thead", { class: "unseen" }, el("tr", {}, el("th", { scope: "col" }, said.tags ? "tag" : "answer"),
      el("th", { scope: "col" }, "probability"))),
    body);
  if (rows.length <= FIRST) return table;
  const more = button(`Show all ${number(rows.length)}`, () => {
    const added = rows.slice(FIRST).map(row);
    body.append(...added);
    more.remove();
    added[0].tabIndex = -1;
    added[0].focus();
  }, { class: "small" });
  return el("div", {}, table, more);
}

function rowsOf(said, names) {
  if (said.tags) return said.tags.map((name, i) => ({ name, prob: said.probs[i], full: 1 }));
  if ("yes" in said) {
    return [["yes", said.prob, said.yes], ["no", 1 - said.prob, !said.yes]].map(([name, prob, best]) =>
      ({ name, prob, best, full: 1 }));
  }
  if (!Array.isArray(said.probs)) return null;
  const best = said.bin ?? said.probs.indexOf(Math.max(...said.probs));
  const full = Math.max(...said.probs, LEAST_FULL);
  const rows = said.probs.map((prob, i) =>
    ({ name: range(names[i] ?? String(i)), prob, full, best: i === best }));
  return "class" in said ? rows.sort((a, b) => b.prob - a.prob) : rows; // classes have no order of their own
}

const row = ({ name, prob, full, best }) =>
  el("tr", { class: best ? "best" : null },
    el("th", { scope: "row", class: name.length > LONG ? "long" : null }, breakable(name)),
    el("td", { vars: { share: Math.min(1, prob / full) } }, el("span", {}, percent(prob))));

const SHOWN = new Set(["bin", "class", "expected", "label", "median", "prob", "probs", "residual_std",
  "reward", "score", "std", "tags", "value", "yes"]);

/** What else a head says, by name. */
function rest(said) {
  const others = Object.entries(said).filter(([key]) => !SHOWN.has(key));
  if (!others.length) return null;
  return el("dl", { class: "rest soft" }, others.flatMap(([key, value]) =>
    [el("dt", {}, key), el("dd", {}, plain(value))]));
}

/** A value of any kind as text. */
function plain(value) {
  if (typeof value === "number") return number(value);
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** The page: which model answers, the pictures given, and how far all of them are. */

import { Card } from "./card.js";
import { counted, el } from "./dom.js";
import { choosing, dropping, pasting } from "./given.js";
import { Failure, Turns, describe } from "./service.js";

const AT_A_TIME = 3; // pictures that are sent beside each other
const OPEN_AT_MOST = 3; // of so many pictures given at once all panels are open, of more the first's
const EACH_IS_TOLD = 3; // to a screen reader; of more only how many are done

const byId = (id) => document.getElementById(id);
const cards = []; // as they stand on the page
let known = null; // the promise of `/model`

/** What `/model` says, asked once; asked again if another model answered since, or it failed. */
async function model(version = null) {
  if (known && version && (await known).model_version !== version) known = null;
  known ??= describe({ waits: tell }).then(introduce);
  try {
    return await known;
  } catch (error) {
    known = null;
    throw error;
  }
}

const world = {
  turns: new Turns(AT_A_TIME),
  model,
  changed,
  say(text, card = null) {
    if (!card || cards.length <= EACH_IS_TOLD) byId("said").textContent = text;
  },
  removed(card) {
    const place = cards.indexOf(card);
    cards.splice(place, 1);
    card.remove();
    (cards[place] ?? cards[place - 1] ?? { focus: () => byId("choose").focus() }).focus();
    changed();
  },
};

/** Say which model answers, and what. */
function introduce(found) {
  const heads = found.heads.map((info) => info.title || info.name).join(", ");
  const looks = found.explains ? "" : " It cannot show where it looks.";
  const similar = found.similar
    ? ` Similar pictures come from snapshot ${found.similar.snapshot} of the catalog.`
    : " It has no catalog at hand, hence no similar pictures.";
  tell("Model ", el("code", {}, found.model_version),
    ` answers ${counted(found.heads.length, "head")}: ${heads}.`, looks, similar);
  byId("model").classList.remove("bad");
  if (document.activeElement === byId("ask-again")) byId("choose").focus();
  byId("ask-again").hidden = true;
  return found;
}

/** What stands where the model is introduced. */
function tell(...words) {
  byId("model").replaceChildren(...words);
}

/** Ask which model answers. */
async function begin() {
  try {
    await model();
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    tell(error.words);
    byId("model").classList.add("bad");
    byId("ask-again").hidden = false;
  }
}

/** Put files at the head of the list and ask about each. `notice`: why there is none, or not all. */
function add(files, notice = "") {
  byId("notice").textContent = notice;
  if (notice) {
    byId("notice").scrollIntoView({ block: "nearest" });
    say(notice);
  }
  if (!files.length) return;
  const added = files.map((file, i) => new Card(file, world, files.length <= OPEN_AT_MOST || i === 0));
  cards.unshift(...added);
  byId("cards").prepend(...added.map((card) => card.element));
  say(`${counted(added.length, "picture")} added${notice && `. ${notice}`}`);
  changed();
  for (const card of added) card.ask();
}

/** A word to a screen reader. */
function say(text) {
  byId("said").textContent = text;
}

/** Bring what is said of all pictures up to date. */
function changed() {
  const number = (state) => cards.filter((card) => card.state === state).length;
  const [answered, failed] = [number("answered"), number("failed")];
  const left = cards.length - answered - failed;
  const focused = document.activeElement;
  document.body.classList.toggle("used", cards.length > 0);
  byId("results").hidden = !cards.length;
  byId("counts").textContent = [
    counted(cards.length, "picture"),
    ...(left ? [`${left} to go`] : []),
    ...(failed ? [`${failed} without an answer`] : []),
  ].join(" · ");
  byId("all-progress").hidden = !left || cards.length === 1;
  byId("all-progress").max = Math.max(1, cards.length);
  byId("all-progress").value = answered + failed;
  byId("stop").hidden = left < 2;
  const retries = cards.filter((card) => card.canRetry).length;
  byId("retry").hidden = left > 0 || retries < 2;
  byId("retry").textContent = `Try ${retries.toLocaleString("en")} again`;
  byId("fold").hidden = answered < 2;
  byId("fold").textContent = cards.some((card) => card.isOpen) ? "Close all" : "Open all";
  if (focused?.hidden) byId("results-title").focus(); // a button that has gone
  if (!left && cards.length > EACH_IS_TOLD) say(`${answered} answered, ${failed} without an answer`);
}

function retry() {
  for (const card of cards.filter((one) => one.canRetry)) card.ask();
}

function clear() {
  for (const card of cards.splice(0)) card.remove();
  changed();
  byId("choose").focus();
}

function fold() {
  const isOpen = !cards.some((card) => card.isOpen);
  for (const card of cards) card.open(isOpen);
  changed();
}

choosing(byId("choose"), byId("files"), add);
choosing(byId("photo"), byId("camera"), add);
dropping(add);
pasting(add);
byId("stop").addEventListener("click", () => cards.forEach((card) => card.cancel()));
byId("retry").addEventListener("click", retry);
byId("clear").addEventListener("click", clear);
byId("fold").addEventListener("click", fold);
byId("ask-again").addEventListener("click", () => {
  tell("Asking the service which model answers …");
  begin();
});
if (/Mac|iPhone|iPad/.test(navigator.platform)) byId("paste-keys").textContent = "⌘ + V";
begin();

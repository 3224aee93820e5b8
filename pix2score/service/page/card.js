/** One picture given: its place in the list, from waiting for its turn to what every head says of it. */

import { breakable, button, el, newId, number, percent, size } from "./dom.js";
import { headline, namesOf, panel } from "./heads.js";
import { looking } from "./looks.js";
import { preview, still } from "./preview.js";
import { Failure, check, predict } from "./service.js";
import { Similar } from "./similar.js";
import { Waiting } from "./waiting.js";

const IN_A_LINE = 4; // heads told while a picture's panels are closed

/** States: `waiting`, `asking`, `answered`, `failed`. */
export class Card {
  state = "waiting";
  #file;
  #world;
  #picture; // promise of the picture as it is shown
  #raw = null;
  #similar = null;
  #stop = new AbortController();
  #result = null; // {answer, body, text} of the service, and the model that gave it
  #isOpen;
  #isLasting = false; // no other try would help
  #body = el("div", { class: "card-body", id: newId(), hidden: true });
  #name;
  #line = el("p", { class: "line soft" });
  #progress;
  #actions = el("div", { class: "buttons" });

  /**
   * `world`: what all cards share: `turns` at the service, `model()` that answers, `say(text)` to a screen
   * reader, `changed()` and `removed(card)`. `isOpen`: whether all panels show once they are there.
   */
  constructor(file, world, isOpen) {
    this.#file = file;
    this.#world = world;
    this.#isOpen = isOpen;
    this.#picture = still(file);
    this.#name = el("h3", { id: newId(), tabindex: "-1" }, breakable(file.name));
    this.#progress = el("progress", { max: "1", "aria-label": `${file.name}: being answered`, hidden: true });
    this.element = el("li", { class: "card", "aria-labelledby": this.#name.id },
      el("div", { class: "card-top" }, preview(this.#picture, "thumb", ""),
        el("div", { class: "told" }, this.#name, this.#line, this.#progress), this.#actions),
      this.#body);
    this.#set("waiting", "Waiting for its turn …");
  }

  /** Name of the file. */
  get name() {
    return this.#file.name;
  }

  /** Whether it has panels that may be opened or closed. */
  get isOpen() {
    return this.state === "answered" && this.#isOpen;
  }

  /** Whether it has no answer, and may have one if it is asked again. */
  get canRetry() {
    return this.state === "failed" && !this.#isLasting;
  }

  /** Ask the service when it is this card's turn, and show what it says. */
  async ask() {
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    this.#set("waiting", "Waiting for its turn …");
    try {
      await this.#world.turns.take(async () => {
        if (!signal.aborted) await this.#ask(signal);
      });
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      if (!signal.aborted) this.#fail(error);
    }
  }

  /** End the asking; nothing if it is answered. */
  cancel() {
    if (this.state !== "waiting" && this.state !== "asking") return;
    this.#stop.abort();
    this.#fail(new Failure("CANCELLED"));
  }

  /** Open or close the panels. */
  open(isOpen) {
    this.#isOpen = isOpen;
    if (this.state !== "answered") return;
    if (isOpen && !this.#body.childElementCount) this.#body.append(...this.#panels());
    this.#body.hidden = !isOpen;
    this.element.classList.toggle("open", isOpen);
    this.#name.firstElementChild.setAttribute("aria-expanded", String(isOpen));
  }

  /** Move the focus here. */
  focus() {
    (this.#name.querySelector("button") ?? this.#name).focus();
  }

  /** Leave the list, and give back what the browser holds for it. */
  remove() {
    this.#stop.abort();
    this.#similar?.close();
    this.#picture.then(({ address }) => URL.revokeObjectURL(address));
    if (this.#raw) URL.revokeObjectURL(this.#raw);
    this.element.remove();
  }

  async #ask(signal) {
    this.#set("asking", "Asking the model …");
    const asked = await this.#world.model();
    await check(this.#file, asked.limits);
    const waiting = new Waiting((words) => this.#tell(words));
    const sent = (share) => {
      if (share < 1) this.#tell(`Sending, ${percent(share)} …`, share);
      else waiting.begin();
    };
    const waits = (words) => {
      waiting.end();
      this.#tell(words);
    };
    const result = await predict(this.#file, { signal, sent, waits }).finally(() => waiting.end());
    const model = await this.#world.model(result.body.model_version);
    if (!signal.aborted) this.#show({ ...result, model });
  }

  #show(result) {
    this.#result = result;
    this.#raw = URL.createObjectURL(new Blob([result.text], { type: "application/json" }));
    const said = this.#heads().map(({ info, said, names }) =>
      `${info.title || info.name} ${headline(said, names, info.unit)}`);
    const more = said.length > IN_A_LINE ? ` · ${said.length - IN_A_LINE} more` : "";
    const toggle = button("", () => {
      this.open(!this.#isOpen);
      this.#world.changed();
    }, { class: "toggle", "aria-controls": this.#body.id, "aria-expanded": "false" });
    toggle.append(el("span", { class: "name" }, breakable(this.name)));
    const hadFocus = this.#name === document.activeElement;
    this.#name.replaceChildren(toggle);
    this.#name.removeAttribute("tabindex");
    if (hadFocus) toggle.focus();
    this.state = "answered";
    this.open(this.#isOpen);
    this.#set("answered", said.slice(0, IN_A_LINE).join(" · ") + more);
    this.#world.say(`${this.name}: ${said.slice(0, IN_A_LINE).join("; ")}`, this);
  }

  #fail(error) {
    this.#isLasting = error.isLasting;
    const detail = error.detail ? `${error.code}: ${error.detail}` : error.code;
    this.#set("failed", error.words, error.code === "CANCELLED" ? null : detail);
    this.#world.say(`${this.name}: ${error.words}`, this);
  }

  #tell(text, share = null) {
    this.#line.replaceChildren(text);
    if (share === null) this.#progress.removeAttribute("value");
    else this.#progress.value = share;
  }

  #set(state, text, detail = null) {
    this.state = state;
    this.#tell(text);
    if (detail) this.#line.append(" ", el("code", {}, detail));
    this.#line.classList.toggle("bad", state === "failed");
    this.#progress.hidden = state !== "asking";
    this.element.setAttribute("aria-busy", String(state === "waiting" || state === "asking"));
    this.#setActions();
    this.#world.changed();
  }

  /** The buttons of this state; a focus that was on one of those before goes to the first of them. */
  #setActions() {
    const hadFocus = this.#actions.contains(document.activeElement);
    const named = (text, listener) => button(text, listener, { "aria-label": `${text} ${this.name}` });
    const isOver = this.state === "answered" || this.state === "failed";
    this.#actions.replaceChildren(
      ...(this.canRetry ? [named("Try again", () => this.ask())] : []),
      isOver ? this.#crossed("Remove", () => this.#world.removed(this))
        : this.#crossed("Cancel", () => this.cancel()));
    if (hadFocus) this.#actions.firstElementChild.focus();
  }

  /** A button that is a cross where there is little room. */
  #crossed(text, listener) {
    const made = button("", listener, { "aria-label": `${text} ${this.name}` });
    made.append(el("span", { class: "if-wide" }, text),
      el("span", { class: "if-narrow", "aria-hidden": "true" }, "✕"));
    return made;
  }

  /** Heads that the answer has, in the model's order: what `/model` says of each, what it says, its names. */
  #heads() {
    const { answer, model } = this.#result;
    return model.heads.filter((info) => answer[info.name]).map((info) => ({
      info, said: answer[info.name],
      names: answer[`${info.name}_predict`] ? namesOf(answer[`${info.name}_predict`]) : info.bins ?? [],
    }));
  }

  #panels() {
    const { model } = this.#result;
    const shown = preview(this.#picture, "large", this.name);
    const raw = el("a", { href: this.#raw, target: "_blank", "aria-label": `Raw JSON of ${this.name}` },
      "Raw JSON");
    const heads = this.#heads().map(({ info, said, names }) =>
      panel(info, said, names, model.explains ? this.#looking(info, shown) : null));
    const comparable = model.similar && model.similar.by_picture !== false; // else of another model
    if (comparable) this.#similar = new Similar(this.#file, (text) => this.#world.say(text));
    return [
      el("figure", { class: "picture" }, shown, el("figcaption", { class: "soft" },
        this.#measured(shown), raw)),
      el("div", { class: "heads" }, heads),
      ...(this.#similar ? [this.#similar.element] : []),
    ];
  }

  /** A line on the picture: its pixels where the browser shows it, and its bytes. */
  #measured(shown) {
    const line = el("span", {}, size(this.#file.size));
    shown.addEventListener("load", async () => {
      const [width, height] = [shown.naturalWidth, shown.naturalHeight].map((side) => number(side));
      const { isMoving } = await this.#picture;
      const frame = isMoving ? ["first frame"] : [];
      line.textContent = [`${width} × ${height} px`, size(this.#file.size), ...frame].join(" · ");
    });
    return line;
  }

  #looking(info, shown) {
    return looking({
      file: this.#file, name: info.name, title: info.title || info.name, shown,
      signal: this.#stop.signal, say: this.#world.say,
    });
  }
}

/** The pictures of the catalog most like one: of the picture given, or of another one of the catalog. */

import { button, el, fraction, newId } from "./dom.js";
import { Failure, similarOf, similarTo } from "./service.js";

/** The section below the heads of one picture; it asks the service when it is made. */
export class Similar {
  #file;
  #stop = new AbortController();
  #title = el("h4", { id: newId(), tabindex: "-1" });
  #line = el("p", { class: "soft" });
  #way = el("div", { class: "buttons" }); // back to the picture given
  #tiles = el("ul", { class: "tiles" });
  #of = null; // {illust_id, page} of the catalog, or null for the picture given

  /** `say` tells a screen reader. */
  constructor(file, say) {
    this.#file = file;
    this.say = say;
    this.element = el("div", { class: "similar", role: "group", "aria-labelledby": this.#title.id },
      el("div", { class: "head-top" }, this.#title, this.#way), this.#line, this.#tiles);
    this.#show(null);
  }

  /** End what is being asked. */
  close() {
    this.#stop.abort();
  }

  async #show(of) {
    this.#stop.abort();
    const stop = this.#stop = new AbortController();
    this.#of = of;
    this.#title.textContent = of ? `Most similar to ${named(of)}` : "Most similar in the catalog";
    this.#way.replaceChildren(...(of ? [button(`Back to ${this.#file.name}`, () => this.#go(null))] : []));
    this.#line.replaceChildren("Looking through the catalog …");
    this.element.setAttribute("aria-busy", "true");
    try {
      const told = { signal: stop.signal, waits: (words) => this.#line.replaceChildren(words) };
      this.#fill(await (of ? similarOf(of, told) : similarTo(this.#file, told)));
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      if (!stop.signal.aborted) this.#fail(error);
    }
    if (stop === this.#stop) this.element.setAttribute("aria-busy", "false");
  }

  #fill({ snapshot, neighbours }) {
    const found = neighbours.length ? "Choose one to see what is most like it." : "There is none.";
    this.#line.replaceChildren(`By cosine of embeddings, snapshot ${snapshot}. ${found}`);
    this.#tiles.replaceChildren(...neighbours.map((one) => this.#tile(one)));
    if (this.#of) this.say(`${neighbours.length} pictures most similar to ${named(this.#of)}`);
  }

  #fail(error) {
    const again = button("Try again", () => this.#go(this.#of), { class: "small" });
    this.#line.replaceChildren(el("span", { class: "bad" }, error.words), " ", error.detail, " ", again);
    this.#tiles.replaceChildren();
  }

  /** Ask about another picture; the focus, whose button goes, moves to the title. */
  #go(of) {
    this.#title.focus({ preventScroll: true });
    this.#show(of);
  }

  #tile(one) {
    const name = named(one);
    const image = one.picture
      ? el("img", { src: one.picture, alt: "", loading: "lazy", decoding: "async" })
      : el("span", { class: "no-picture", "aria-hidden": "true" }, "no picture");
    image.addEventListener("error", () => image.replaceWith(
      el("span", { class: "no-picture", "aria-hidden": "true" }, "no picture")));
    const likeness = el("span", { class: "soft" }, el("span", { class: "unseen" }, "similarity "),
      fraction(one.similarity));
    const tile = button("", () => this.#go(one), { class: "tile" });
    tile.replaceChildren(image, el("b", {}, name), " ", likeness);
    return el("li", {}, tile);
  }
}

const named = ({ illust_id: id, page }) => (page ? `${id}, page ${page}` : String(id));

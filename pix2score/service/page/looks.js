/** Where a head looks in a picture: asked once, when first shown. */

import { button, el } from "./dom.js";
import { Failure, where } from "./service.js";

const MOST_FORM = 4;

/**
 * `{button, figure}`: the button shows and hides the figure. `about`: the `file`, the head's `name` and
 * `title`, the picture `shown` beside, whose form the map takes, the `signal` that ends the asking, and
 * `say(text)` to a screen reader.
 */
export function looking(about) {
  const figure = el("figure", { class: "map", hidden: true });
  const toggle = button("Where it looks", async () => {
    const isShown = toggle.getAttribute("aria-pressed") !== "true";
    toggle.setAttribute("aria-pressed", String(isShown));
    figure.hidden = !isShown;
    if (!isShown || figure.querySelector("img") || figure.getAttribute("aria-busy") === "true") return;
    figure.setAttribute("aria-busy", "true");
    figure.replaceChildren(el("p", { class: "soft" }, "Following the model's gradient …"));
    figure.replaceChildren(...await mapOf(about));
    figure.setAttribute("aria-busy", "false");
  }, { class: "quiet", "aria-pressed": "false", "aria-label": `Where it looks for ${about.title}` });
  return { button: toggle, figure };
}

async function mapOf({ file, name, title, shown, signal, say }) {
  try {
    const map = el("img", { src: await where(file, name, { signal }), vars: { form: formOf(shown) },
      alt: `${file.name}, dimmed where the model does not look for ${title}` });
    say(`Where the model looks for ${title} is shown`);
    return [map, el("figcaption", { class: "soft" }, `Bright: what raises ${title}`)];
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    if (signal.aborted) return [];
    const words = error.code === "NO_MAP" ? "This model cannot show where it looks." : error.words;
    say(words);
    return [el("p", { class: "bad" }, words, " ", error.detail && el("code", {}, error.detail))];
  }
}

/** Width by height of an image; of a strip as much as can be made out, of one without a preview a square. */
const formOf = ({ naturalWidth, naturalHeight }) =>
  (naturalWidth ? Math.min(MOST_FORM, Math.max(1 / MOST_FORM, naturalWidth / naturalHeight)) : 1);

/** A picture as the browser shows it, without moving. */

import { el } from "./dom.js";

const HEAD = 2 ** 14; // bytes in which a file says that it moves
const MOVING = /^(GIF8|RIFF.{4}WEBP.*ANIM|.PNG.*acTL|.{4}ftypavis)/s;

/**
 * `{address, isMoving}` of a picture: of an animation the address of its first frame, which is what the model
 * looks at. Whoever asks gives the address back.
 */
export async function still(file) {
  let [shown, isMoving] = [file, false];
  try {
    const head = await file.slice(0, HEAD).arrayBuffer();
    isMoving = MOVING.test(new TextDecoder("latin1").decode(head));
    if (isMoving) shown = await firstFrame(file);
  } catch {
    // What the browser cannot read has no preview.
  }
  return { address: URL.createObjectURL(shown), isMoving };
}

async function firstFrame(file) {
  const frame = await createImageBitmap(file);
  const canvas = el("canvas", { width: frame.width, height: frame.height });
  canvas.getContext("2d").drawImage(frame, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve));
}

/**
 * An image of `picture`, the promise of `still`; a word where the browser cannot show it: the model may read
 * it all the same.
 */
export function preview(picture, style, alt) {
  const image = el("img", { class: style, alt, decoding: "async", loading: "lazy" });
  image.addEventListener("error", () => image.replaceWith(
    el("span", { class: `${style} no-picture`, "aria-hidden": alt ? null : "true" }, "no preview")));
  picture.then(({ address }) => { image.src = address; });
  return image;
}

/** How pictures come in: chosen, photographed, dropped - a folder with all below it - or pasted. */

const MOST = 1000; // pictures taken of what is dropped at once
const PICTURE = /\.(avif|bmp|gif|hei[cf]|jpe?g|jxl|png|tiff?|webp)$/i; // in a folder
const NO_FILE = "There was no file in it: drop or paste the picture itself.";
const NO_PICTURE = "There was no picture in the folder.";
const A_LINK = "That is a link: open it, copy the picture itself, and paste that.";

/** Let a button open a file input, and take what is chosen; the same file may be chosen again. */
export function choosing(button, input, take) {
  button.addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    if (input.files.length) take([...input.files]);
    input.value = "";
  });
}

/** Take what is dropped anywhere on the page. `take(files, notice)`: see `given`. */
export function dropping(take) {
  let depth = 0; // every element below the pointer is entered and left
  const over = (isOver) => document.body.classList.toggle("dropping", isOver);
  const isFile = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragstart", (event) => event.preventDefault()); // else onto the page itself
  addEventListener("dragenter", (event) => isFile(event) && over((depth += 1) > 0));
  addEventListener("dragleave", (event) => isFile(event) && over((depth -= 1) > 0));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    over((depth = 0) > 0);
    given(event.dataTransfer, take);
  });
}

/** Take what is pasted. */
export const pasting = (take) => addEventListener("paste", (event) => given(event.clipboardData, take));

/** Pass files on to `take(files, notice)`; the notice says why there is none, or not all of them. */
async function given(transfer, take) {
  const none = isLink(transfer) ? A_LINK : NO_FILE;
  const items = [...transfer.items].filter((item) => item.kind === "file")
    .map((item) => ({ file: item.getAsFile(), entry: item.webkitGetAsEntry?.() })); // later they are gone
  const files = [];
  for (const { file, entry } of items) {
    if (entry?.isDirectory) await walk(entry, files);
    else files.push(file);
  }
  const most = `Only the first ${MOST.toLocaleString("en")} pictures are taken.`;
  const notice = files.length > MOST ? most : "";
  take(files.slice(0, MOST), files.length ? notice : items.length ? NO_PICTURE : none);
}

const isLink = (transfer) => transfer.types.includes("text/uri-list")
  || /^\s*https?:\S+\s*$/.test(transfer.getData("text/plain"));

/** Append the pictures below a folder to `files`, by name, until there is one too many. */
async function walk(folder, files) {
  for (const entry of await listed(folder)) {
    if (files.length > MOST) return;
    if (entry.isDirectory) await walk(entry, files);
    else if (PICTURE.test(entry.name)) files.push(...await fileOf(entry));
  }
}

/** What is in a folder but for hidden files, `9.png` before `10.png`; nothing where it cannot be read. */
async function listed(folder) {
  const reader = folder.createReader();
  const found = [];
  try {
    for (let some = [null]; some.length;) {
      some = await called((done, fail) => reader.readEntries(done, fail)); // a hundred at a time
      found.push(...some);
    }
  } catch {
    // Gone, or not this user's to read.
  }
  return found.filter((entry) => !entry.name.startsWith("."))
    .sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
}

/** The file of an entry; none where it cannot be read. */
const fileOf = async (entry) => {
  try {
    return [await called((done, fail) => entry.file(done, fail))];
  } catch {
    return [];
  }
};

const called = (start) => new Promise(start);

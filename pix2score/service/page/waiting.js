/** A sign of life while a model is at work, also where nothing may move. */

const LONG_S = 5; // after which it is said how long it takes

/** Tells that the model looks, and from some seconds on for how long. */
export class Waiting {
  #tell;
  #timer = null;

  /** `tell(words)`: where to. */
  constructor(tell) {
    this.#tell = tell;
  }

  /** The model has the picture. */
  begin() {
    this.end();
    let seconds = 0;
    this.#tell("The model looks at it …");
    this.#timer = setInterval(() => {
      if ((seconds += 1) >= LONG_S) this.#tell(`The model looks at it, ${seconds} s …`);
    }, 1000);
  }

  /** Nothing is told any more. */
  end() {
    clearInterval(this.#timer);
  }
}

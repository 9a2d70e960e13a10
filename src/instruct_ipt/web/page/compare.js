// Two pictures of one size, one over the other, and a divider that is moved by pointer or keyboard.

export class Compare {
  #frame;
  #stage;
  #input;

  /** frame: scrolls; stage: holds the pictures; input: a range from 0 to 100. */
  constructor(frame, stage, input) {
    [this.#frame, this.#stage, this.#input] = [frame, stage, input];
    const drag = event => {
      const box = frame.getBoundingClientRect(), seen = stage.getBoundingClientRect();
      const left = Math.max(box.left, seen.left), right = Math.min(box.right, seen.right);
      input.value = 100 * (event.clientX - left) / (right - left);
      this.show();
    };
    const active = event => stage.classList.contains("two") && !(this.close && event.pointerType === "touch");
    input.addEventListener("input", () => this.show());
    frame.addEventListener("scroll", () => this.show());
    addEventListener("resize", () => this.show());
    stage.addEventListener("pointerdown", event => {
      if (!active(event) || event.button !== 0) return;
      event.preventDefault();
      stage.setPointerCapture(event.pointerId);
      drag(event);
    });
    stage.addEventListener("pointermove", event => { if (event.buttons && active(event)) drag(event); });
  }

  /** Whether the pictures are shown pixel by pixel, and scrolled. */
  get close() { return this.#frame.classList.contains("close"); }
  set close(value) {
    this.#frame.classList.toggle("close", value);
    this.#frame.tabIndex = value ? 0 : -1;
    if (value) {
      this.#frame.scrollLeft = (this.#stage.clientWidth - this.#frame.clientWidth) / 2;
      this.#frame.scrollTop = (this.#stage.clientHeight - this.#frame.clientHeight) / 2;
    }
    this.show();
  }

  /** Draw the divider: its place is a share of what is to be seen. */
  show() {
    const whole = this.#stage.clientWidth, seen = Math.min(whole, this.#frame.clientWidth);
    const at = this.#frame.scrollLeft + seen * this.#input.value / 100;
    this.#stage.style.setProperty("--at", `${whole ? 100 * at / whole : 50}%`);
  }
}

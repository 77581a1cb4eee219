// The API key: asked for when the API wants one, and kept for this tab only.

import { byId, setText } from "./dom.js";

const STORED = "interaction-summary-key";

export class KeyDialog {
  /** `onChange`: called when there is another key, or none any more. */
  constructor(onChange) {
    this.dialog = byId("key-dialog");
    this.input = byId("key-input");
    this.forget = byId("key-forget");
    this.enter = byId("key-enter");
    this.forget.addEventListener("click", () => {
      sessionStorage.removeItem(STORED);
      onChange();
    });
    this.enter.addEventListener("click", () => this.ask(""));
    byId("key-cancel").addEventListener("click", () => this.dialog.close());
    byId("key-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const key = this.input.value.trim();
      // A header cannot carry other characters, and no key has them.
      if (!/^[\x21-\x7e]+$/.test(key)) {
        setText(byId("key-reason"), "An API key has only letters, digits and underscores.");
        this.input.focus();
        return;
      }
      sessionStorage.setItem(STORED, key);
      this.dialog.close();
      onChange();
    });
    this.dialog.addEventListener("close", () => {
      this.input.value = "";
      this.show();
    });
    this.show();
  }

  /** Return the key, or null. */
  get() {
    return sessionStorage.getItem(STORED);
  }

  /** Forget a key that the API does not accept. Return whether there was one. */
  drop() {
    const known = this.get() !== null;
    sessionStorage.removeItem(STORED);
    return known;
  }

  /** Ask for a key, and say why. */
  ask(reason) {
    if (this.dialog.open) return;
    setText(byId("key-reason"), reason);
    this.dialog.showModal();
    this.input.focus();
  }

  /** Show the buttons that fit: `needed` says whether the API has refused to answer without. */
  show(needed = !this.enter.hidden) {
    const known = this.get() !== null;
    this.forget.hidden = !known;
    this.enter.hidden = known || !needed;
  }
}

// Tabs as WAI-ARIA describes them: arrow keys, Home and End move among them, and what is reached is shown.

/** list: holds the tabs, each with `aria-controls`; `chosen` is called with the tab that is shown from now on. */
export function tabs(list, chosen) {
  const all = [...list.querySelectorAll("[role=tab]")].filter(tab => !tab.hidden);
  const choose = tab => {
    for (const other of all) {
      other.setAttribute("aria-selected", String(other === tab));
      other.tabIndex = other === tab ? 0 : -1;
      document.getElementById(other.getAttribute("aria-controls")).hidden = other !== tab;
    }
    chosen(tab);
  };
  const moves = {
    ArrowLeft: at => at - 1, ArrowRight: at => at + 1, Home: () => 0, End: () => all.length - 1,
  };
  for (const tab of all) {
    const panel = document.getElementById(tab.getAttribute("aria-controls"));
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", tab.id);
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", event => {
      const move = moves[event.key];
      if (!move || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      const next = all.at(move(all.indexOf(tab)) % all.length);
      next.focus();
      choose(next);
    });
  }
  list.hidden = all.length < 2;
}

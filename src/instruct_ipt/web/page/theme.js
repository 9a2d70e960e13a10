"use strict";
{
  const root = document.documentElement, system = matchMedia("(prefers-color-scheme: dark)");
  try {
    const theme = localStorage.getItem("ipt-theme");
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  } catch { /* a browser that keeps nothing */ }
  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => button.setAttribute("aria-pressed", String(isDark()));
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      try { localStorage.setItem("ipt-theme", root.dataset.theme); } catch { /* then it holds until the page is closed */ }
      show();
    });
    system.addEventListener("change", show);
    button.hidden = false;
    show();
  });
}

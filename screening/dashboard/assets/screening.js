// What the pages do by themselves, beside Dash: links in the table, filters in the address.

{
  const components = (window.dashAgGridComponentFunctions =
    window.dashAgGridComponentFunctions || {});

  components.MaterialLink = ({ data, value, eGridCell }) => {
    if (!data) return null;
    eGridCell.onkeydown = (event) => {
      if (event.key === "Enter") eGridCell.querySelector("a").click();
    };
    return React.createElement(
      window.dash_core_components.Link,
      { href: data.href, title: value },
      value,
    );
  };

  // The filters go into the address, without a step in the browser's history.
  document.addEventListener("change", (event) => {
    const form = event.target.closest("#filters");
    if (!form) return;
    const asked = Object.fromEntries([...new FormData(form)].filter(([, value]) => value.trim()));
    const search = new URLSearchParams(asked).toString();
    history.replaceState(history.state, "", location.pathname + (search && "?" + search));
    dash_clientside.set_props("asked", { data: asked });
  });
  document.addEventListener("submit", (event) => event.preventDefault());

  // Plotly reads the letters that it draws in 3D back from a canvas; Chromium wants to know before.
  const { getContext } = HTMLCanvasElement.prototype;
  HTMLCanvasElement.prototype.getContext = function (kind, options) {
    const hint = kind === "2d" ? { willReadFrequently: true, ...options } : options;
    return getContext.call(this, kind, hint);
  };

  // A dashboard that has ended is said, and looked for again: Dash itself would be silent.
  const { fetch } = window;
  let isAway = false;
  window.fetch = async (...question) => {
    let answer;
    try {
      answer = await fetch(...question);
    } catch (error) {
      isAway = true;
      const words = "The dashboard does not answer. This page looks again every few seconds.";
      dash_clientside.set_props("notice", { children: words });
      setTimeout(() => dash_clientside.set_props("pulse", { disabled: false }), 100);
      throw error;
    }
    if (isAway) dash_clientside.set_props("notice", { children: null });
    isAway = false;
    return answer;
  };

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    screening: {
      entitle(title) {
        document.title = `${title} – screening`;
      },
      // Other filters are another table; new documents leave the place that one has scrolled to.
      async readAgain(asked, shown) {
        if (!document.getElementById("candidates") || !shown?.state) return;
        const isAsked = dash_clientside.callback_context.triggered_id === "asked";
        const grid = await dash_ag_grid.getApiAsync("candidates");
        if (isAsked) grid.purgeInfiniteCache();
        else grid.refreshInfiniteCache();
      },
    },
  });
}

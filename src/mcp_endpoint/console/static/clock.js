// Times and durations in the words of the pages.

export const clock = (ms) => new Date(ms - new Date(ms).getTimezoneOffset() * 60_000).toISOString().replace("T", " ").replace("Z", "");

export const took = (ms) => {
  if (ms === null) return "";
  if (ms >= 10_000) return `${(ms / 1_000).toFixed(1)} s`;
  return `${ms.toFixed(ms >= 10 ? 0 : 1)} ms`;
};

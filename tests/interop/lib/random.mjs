/** Numbers that look random, the same for the same seed. */
export class Random {
  constructor(seed) {
    this.state = seed >>> 0;
  }

  /** In [0, 1). */
  fraction() {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let n = this.state;
    n = Math.imul(n ^ (n >>> 15), n | 1);
    n ^= n + Math.imul(n ^ (n >>> 7), n | 61);
    return ((n ^ (n >>> 14)) >>> 0) / 2 ** 32;
  }

  below(limit) {
    return Math.floor(this.fraction() * limit);
  }

  chance(probability) {
    return this.fraction() < probability;
  }

  pick(choices) {
    return choices[this.below(choices.length)];
  }

  /** Each with the same chance to be in, at least one of them. */
  some(choices) {
    const chosen = choices.filter(() => this.chance(0.5));
    return chosen.length ? chosen : [this.pick(choices)];
  }
}

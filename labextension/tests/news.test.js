/**
 * News is shown once, in time, in words that fit, and only while it is true.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { describeNotice, isUnseen, PAGE_LENGTH, pagesOf, seenWith, worthShowing } from '../lib/news.js';

const NOW = '2026-03-02T12:00:00Z';
const NOW_MS = Date.parse(NOW);
const MINUTE = 60_000;
const trans = { __: (text, ...args) => text.replace(/%(\d)/g, (_, place) => String(args[place - 1])) };
const at = minutes => new Date(NOW_MS + minutes * MINUTE).toISOString();

function notice({ id = 7, when = 0, kind = 'ending', workload = 's-1', ends = null, ...words } = {}) {
  const explanation = { code: 'credit', message: 'It ends.', instead: '', ...words };
  return {
    id,
    at: at(when),
    kind,
    explanation,
    workload_id: workload,
    ends_at: ends === null ? null : at(ends)
  };
}

const shown = (notices, { first = false, mute = 'nothing' } = {}) =>
  worthShowing(notices, first, mute, NOW_MS).map(({ id }) => id);

test('a notice is unseen once, also when time stood still or ids began anew', () => {
  const seen = [notice({ id: 7 }), notice({ id: 8 })].reduce((before, next) => seenWith(next, before), null);
  assert.equal(isUnseen(notice({ id: 7 }), null), true);
  assert.equal(isUnseen(notice({ id: 7 }), seen), false);
  assert.equal(isUnseen(notice({ id: 8 }), seen), false);
  assert.equal(isUnseen(notice({ id: 9 }), seen), true);
  assert.equal(isUnseen(notice({ id: 9, when: -5 }), seen), true);
  const restored = notice({ id: 3, when: 1 });
  assert.equal(isUnseen(restored, seen), true);
  assert.equal(isUnseen(restored, seenWith(restored, seen)), false);
});

test('the latest word about an end replaces the earlier ones; other news stands', () => {
  const news = [
    notice({ id: 1, when: -30, ends: 1 }),
    notice({ id: 2, when: -10, ends: 1 }),
    notice({ id: 3, kind: 'soft_limit' }),
    notice({ id: 4, when: -1, ends: 1 }),
    notice({ id: 5, workload: 's-2', ends: 9 })
  ];
  assert.deepEqual(shown(news), [3, 4, 5]);
  assert.deepEqual(shown([...news, notice({ id: 6, kind: 'stopped' })]), [3, 5, 6]);
});

test('an end that has come is not announced any more', () => {
  assert.deepEqual(shown([notice({ when: -20, ends: 0 })]), []);
  assert.deepEqual(shown([notice({ when: -20, ends: 1 })]), [7]);
});

test('old news: only stops and answers, and none in a browser that never saw any', () => {
  const kinds = ['stopped', 'soft_limit', 'price_changed', 'answered'];
  const old = kinds.map((kind, place) => notice({ id: place, kind, when: -25 * 60, workload: null }));
  assert.deepEqual(shown(old), [0, 3]);
  assert.deepEqual(shown(old, { first: true }), []);
  const recent = kinds.map((kind, place) => notice({ id: place, kind, when: -23 * 60, workload: null }));
  assert.deepEqual(shown(recent, { first: true }), [0, 1, 2, 3]);
});

test('muting the minor leaves ends and stops, muting everything leaves nothing', () => {
  const kinds = ['ending', 'stopped', 'soft_limit', 'price_changed', 'answered'];
  const news = kinds.map((kind, place) => notice({ id: place, kind, workload: String(place), ends: 5 }));
  assert.deepEqual(shown(news, { mute: 'minor' }), [0, 1]);
  assert.deepEqual(shown(news, { mute: 'everything' }), []);
});

test('the last call and a stop stay, earlier calls go after a minute, the rest sooner', () => {
  const closes = given => describeNotice(notice(given), NOW_MS, trans).autoCloseMs;
  assert.equal(closes({ ends: 2 }), false);
  assert.equal(closes({ kind: 'stopped' }), false);
  assert.equal(closes({ ends: 10 }), 60_000);
  assert.equal(closes({ ends: 30 }), 60_000);
  assert.equal(closes({ kind: 'price_changed' }), 20_000);
  assert.equal(describeNotice(notice({ kind: 'answered' }), NOW_MS, trans).type, 'info');
  assert.equal(describeNotice(notice(), NOW_MS, trans).type, 'warning');
});

test('what helps is on the first page, details follow', () => {
  const message =
    '“train” will be stopped in 10 minutes. This may cost 0.25 credits but class:cs101 has only 0.10 credits left ' +
    '(99.90 credits of 100.00 credits are spent or held).';
  const given = { message, instead: 'Ask your teacher for more.' };
  const { pages } = describeNotice(notice(given), NOW_MS, trans);
  assert.equal(pages[0], '“train” will be stopped in 10 minutes. Ask your teacher for more.');
  assert.match(pages.slice(1).join(' '), /^This may cost 0\.25 credits .* are spent or held\)\.$/);
  const short = { message: 'It ends. Credit is used up.', instead: 'Ask for more.' };
  assert.deepEqual(describeNotice(notice(short), NOW_MS, trans).pages, ['It ends. Credit is used up. Ask for more.']);
});

test('a notice that was told a while ago says when', () => {
  const [page] = describeNotice(notice({ when: -5, ends: 5, message: 'It ends in 10 minutes.' }), NOW_MS, trans).pages;
  assert.match(page, /^At \d\d:\d\d: It ends in 10 minutes\.$/);
});

test('no page is cut off and no word is lost', () => {
  const words = Array.from({ length: 90 }, (_, place) => `word${place}`).join(' ');
  for (const sentences of [[words], ['One.', words, 'Two.'], ['x'.repeat(400)], ['🙂'.repeat(200)], ['A.', 'B.'], []]) {
    const pages = pagesOf(sentences);
    assert.ok(pages.every(page => page.length > 0 && page.length <= PAGE_LENGTH));
    assert.equal(pages.join('').replaceAll(' ', ''), sentences.join('').replaceAll(' ', ''));
  }
});

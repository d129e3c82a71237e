/**
 * What of the news is shown, in which words and for how long. Pure: no clock, no storage, no screen.
 */
import type { INotice } from './api.js';
import { formatClock, type ITranslate } from './format.js';

/** How far a browser has seen the news: the latest notice's id, and the latest instant. */
export interface ISeen {
  readonly id: number;
  readonly at: string;
}

/** What the user does not want to see. */
export type Mute = 'nothing' | 'minor' | 'everything';

/** A notice as it is shown: pages of at most `PAGE_LENGTH` characters, and for how long (false: until closed). */
export interface INoticeView {
  readonly pages: readonly string[];
  readonly type: 'info' | 'warning';
  readonly autoCloseMs: number | false;
}

/** JupyterLab cuts a notification's text off here. */
export const PAGE_LENGTH = 140;

const SECOND_MS = 1000;
const MINUTE_MS = 60 * SECOND_MS;
const DAY_MS = 24 * 60 * MINUTE_MS;
// From here on a text like "in 10 minutes" needs to say when it was true.
const FRESH_MS = 90 * SECOND_MS;
const LAST_CALL_MS = 5 * MINUTE_MS;

/** Whether a notice came after what was seen. After a backup was put back ids begin anew, but time goes on. */
export function isUnseen(notice: INotice, seen: ISeen | null): boolean {
  return seen === null || notice.id > seen.id || Date.parse(notice.at) > Date.parse(seen.at);
}

/** What was seen, once `notice` was. */
export function seenWith(notice: INotice, seen: ISeen | null): ISeen {
  const later = seen === null || Date.parse(notice.at) > Date.parse(seen.at);
  return { id: notice.id, at: later ? notice.at : seen.at };
}

/** Whether a notice says that something ends or has ended: a later one makes the earlier one untrue. */
export function isAboutAnEnd(notice: INotice): boolean {
  return notice.kind === 'ending' || notice.kind === 'stopped';
}

/**
 * Which of some unseen notices to show at `nowMs`: of what they say about an end the latest word only, and no end that
 * has come. Older than a day, only what concerns the person still is shown, and nothing in a browser that meets the
 * news for the first time.
 */
export function worthShowing(
  unseen: readonly INotice[],
  firstVisit: boolean,
  mute: Mute,
  nowMs: number
): readonly INotice[] {
  const latest = new Map(unseen.filter(isAboutAnEnd).map(notice => [notice.workload_id, notice]));
  return unseen.filter(notice => {
    if (mute === 'everything' || (mute === 'minor' && !isAboutAnEnd(notice))) {
      return false;
    }
    if (isAboutAnEnd(notice) && notice.workload_id !== null && latest.get(notice.workload_id) !== notice) {
      return false;
    }
    if (notice.kind === 'ending' && notice.ends_at !== null && Date.parse(notice.ends_at) <= nowMs) {
      return false;
    }
    const old = nowMs - Date.parse(notice.at) > DAY_MS;
    return !old || (!firstVisit && (notice.kind === 'stopped' || notice.kind === 'answered'));
  });
}

/** A notice in words: what happened and what helps first, details on the following pages. */
export function describeNotice(notice: INotice, nowMs: number, trans: ITranslate): INoticeView {
  const { message, instead } = notice.explanation;
  const [first = '', ...rest] = sentencesOf(message);
  const fits = message.length + 1 + instead.length <= PAGE_LENGTH;
  const sentences = fits ? [message, instead] : [first, ...sentencesOf(instead), ...rest];
  const fresh = nowMs - Date.parse(notice.at) <= FRESH_MS;
  const told = fresh ? [] : [trans.__('At %1:', formatClock(notice.at, nowMs))];
  return {
    pages: pagesOf([...told, ...sentences].filter(Boolean)),
    type: notice.kind === 'price_changed' || notice.kind === 'answered' ? 'info' : 'warning',
    autoCloseMs: autoCloseOf(notice)
  };
}

/** The last call and a stop stay until they are closed; the rest goes, and is kept in the list of notifications. */
function autoCloseOf(notice: INotice): number | false {
  switch (notice.kind) {
    case 'stopped':
      return false;
    case 'ending': {
      const leftMs = notice.ends_at === null ? 0 : Date.parse(notice.ends_at) - Date.parse(notice.at);
      return leftMs <= LAST_CALL_MS ? false : MINUTE_MS;
    }
    default:
      return 20 * SECOND_MS;
  }
}

function sentencesOf(text: string): string[] {
  return text.split(/(?<=[.!?])\s+/).filter(Boolean);
}

/** Sentences on as few pages as hold them; a sentence longer than a page is cut between words. */
export function pagesOf(sentences: readonly string[]): string[] {
  const pages: string[] = [];
  let page = '';
  const add = (piece: string): void => {
    const joined = page === '' ? piece : `${page} ${piece}`;
    if (joined.length <= PAGE_LENGTH) {
      page = joined;
      return;
    }
    if (page !== '') {
      pages.push(page);
    }
    page = piece;
  };
  for (const sentence of sentences) {
    const pieces = sentence.length <= PAGE_LENGTH ? [sentence] : sentence.split(' ').flatMap(cut);
    pieces.forEach(add);
  }
  return page === '' ? pages : [...pages, page];
}

/** Pieces of a word that fit on a page; a character outside the basic plane counts twice and is never cut in two. */
function cut(word: string): string[] {
  return word.match(new RegExp(`.{1,${PAGE_LENGTH / 2}}`, 'gsu')) ?? [];
}

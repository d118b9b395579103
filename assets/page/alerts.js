// What went wrong, at the top of the page, in an alert region.

import { byId, h, icon } from './dom.js';

export const alerts = {
  /** Shows one; those before it go, for they are of an older question. */
  show({ words, detail, actions = [] }) {
    this.clear();
    const alert = h(
      'div',
      { class: 'alert' },
      icon('warning'),
      h('div', {}, h('p', {}, words), detail && h('p', { class: 'detail' }, detail)),
      ...actions.map(({ label, run }) => h('button', { type: 'button', onclick: () => (alert.remove(), run()) }, label)),
      h('button', { type: 'button', class: 'quiet icon', 'aria-label': 'Dismiss', onclick: () => alert.remove() }, icon('close')),
    );
    byId('alerts').append(alert);
    return alert;
  },
  clear() {
    byId('alerts').replaceChildren();
  },
};

//! What has to be known before uploads can be decided.

use std::collections::{HashMap, HashSet};

use crate::change::Upload;
use crate::stream::{PayloadWanted, RowKey, Wanted, WantedRow};

impl Wanted {
    /// All that has to be loaded before these uploads can be decided.
    pub fn of<'a>(uploads: impl IntoIterator<Item = &'a Upload>) -> Self {
        let mut wanted = Self::default();
        let mut positions = HashMap::new();
        let mut keys = HashSet::new();
        for upload in uploads {
            if !wanted.sources.contains(&upload.source) {
                wanted.sources.push(upload.source.clone());
            }
            for change in upload.submissions.iter().filter_map(|submission| submission.change.as_ref().ok()) {
                let key = (upload.source.clone(), change.source_change_id);
                if keys.insert(key.clone()) {
                    wanted.keys.push(key);
                }
                wanted.want_row(&change.row, PayloadWanted::UnlessAt(change.base), &mut positions);
                for parent in &change.parents {
                    wanted.want_row(parent, PayloadWanted::Never, &mut positions);
                }
            }
        }
        wanted
    }

    /// Asks for the payload of every row that is changed, whatever its version is.
    pub fn want_payloads(&mut self) {
        let changed = self.rows.iter_mut().filter(|row| row.payload != PayloadWanted::Never);
        changed.for_each(|row| row.payload = PayloadWanted::Always);
    }

    fn want_row<'a>(&mut self, key: &'a RowKey, payload: PayloadWanted, positions: &mut HashMap<&'a RowKey, usize>) {
        let Some(&position) = positions.get(key) else {
            positions.insert(key, self.rows.len());
            self.rows.push(WantedRow { key: key.clone(), payload });
            return;
        };
        let known = &mut self.rows[position].payload;
        *known = match (*known, payload) {
            (wanted, PayloadWanted::Never) | (PayloadWanted::Never, wanted) => wanted,
            // A second change of a row may have to be compared with what the row was before the first.
            _ => PayloadWanted::Always,
        };
    }
}

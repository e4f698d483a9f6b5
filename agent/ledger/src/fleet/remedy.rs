//! What to do when storing a batch fails: pure. Each remedy is tried once; anything else goes up unchanged.

use tokio_postgres::error::SqlState;

/// A column of `slices` that refers to what may vanish between the look at it and the insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reference {
    ApiKey,
    Host,
}

/// What may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Look for what is stored already, and for what contradicts it.
    Sift,
    /// Set a column to NULL in the rows that refer to what is gone.
    Forget(Reference),
    /// Make the partitions of the months that the slices lie in.
    Partition,
}

/// What was done about a batch so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tried(pub(super) Vec<Remedy>);

/// What PostgreSQL says about a failure. Of messages nothing is read: they are for people, and translated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure<'a> {
    pub(super) code: &'a SqlState,
    pub(super) constraint: Option<&'a str>,
}

impl Tried {
    /// What to try next, which then counts as tried; `None` where nothing is left to try.
    pub(super) fn remedy(&mut self, failure: Failure<'_>) -> Option<Remedy> {
        let remedy = match (failure.code, failure.constraint) {
            (&SqlState::FOREIGN_KEY_VIOLATION, Some("slices_api_key_fkey")) => {
                Remedy::Forget(Reference::ApiKey)
            }
            (&SqlState::FOREIGN_KEY_VIOLATION, Some("slices_host_fkey")) => Remedy::Forget(Reference::Host),
            (&SqlState::UNIQUE_VIOLATION, Some("events_pkey")) | (&SqlState::EXCLUSION_VIOLATION, _) => {
                Remedy::Sift
            }
            // No partition takes the row. A CHECK that is broken has the same code, and a name.
            (&SqlState::CHECK_VIOLATION, None) => Remedy::Partition,
            _ => return None,
        };
        if self.0.contains(&remedy) {
            return None;
        }
        self.0.push(remedy);
        Some(remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure<'a>(code: &'a SqlState, constraint: Option<&'a str>) -> Failure<'a> {
        Failure { code, constraint }
    }

    #[test]
    fn the_name_of_the_constraint_says_which_column_is_forgotten() {
        let mut tried = Tried::default();
        for (name, reference) in
            [("slices_api_key_fkey", Reference::ApiKey), ("slices_host_fkey", Reference::Host)]
        {
            let gone = failure(&SqlState::FOREIGN_KEY_VIOLATION, Some(name));
            assert_eq!(tried.remedy(gone), Some(Remedy::Forget(reference)));
            assert_eq!(tried.remedy(gone), None, "once");
        }
    }

    #[test]
    fn an_unknown_constraint_and_any_other_error_go_up() {
        for (code, constraint) in [
            (&SqlState::FOREIGN_KEY_VIOLATION, Some("slices_region_fkey")),
            (&SqlState::FOREIGN_KEY_VIOLATION, None),
            (&SqlState::UNIQUE_VIOLATION, Some("slices_api_key_fkey")),
            (&SqlState::CHECK_VIOLATION, Some("slices_in_order")),
            (&SqlState::DISK_FULL, None),
        ] {
            assert_eq!(Tried::default().remedy(failure(code, constraint)), None, "{code:?} {constraint:?}");
        }
    }

    #[test]
    fn repetitions_and_overlaps_are_sifted_out_once_and_partitions_made_once() {
        let mut tried = Tried::default();
        let repeated = failure(&SqlState::UNIQUE_VIOLATION, Some("events_pkey"));
        let overlaps = failure(&SqlState::EXCLUSION_VIOLATION, Some("slices_2026_01_no_overlap"));
        assert_eq!(tried.remedy(repeated), Some(Remedy::Sift));
        assert_eq!(tried.remedy(overlaps), None);
        let homeless = failure(&SqlState::CHECK_VIOLATION, None);
        assert_eq!(tried.remedy(homeless), Some(Remedy::Partition));
        assert_eq!(tried.remedy(homeless), None);
    }
}

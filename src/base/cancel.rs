//! Cooperative cancellation, shared between threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that requests the end of long work. Clones share one flag.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    own: Arc<AtomicBool>,
    outer: Option<Arc<Cancel>>,
}

impl Cancel {
    /// Requests the end of the work in every holder of a clone.
    pub fn set(&self) {
        self.own.store(true, Ordering::Relaxed);
    }

    /// Whether [`Cancel::set`] was called on this flag, on a clone of it, or on a flag that it is within.
    pub fn is_set(&self) -> bool {
        self.own.load(Ordering::Relaxed) || self.outer.as_ref().is_some_and(|outer| outer.is_set())
    }

    /// A new flag within this one: it is also set when this one is.
    pub fn within(&self) -> Cancel {
        Cancel { own: Arc::default(), outer: Some(Arc::new(self.clone())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_within_another_is_set_with_it() {
        let outer = Cancel::default();
        let (one, two) = (outer.within(), outer.within());
        one.set();
        assert_eq!([&outer, &one, &two].map(Cancel::is_set), [false, true, false]);
        outer.set();
        assert!(two.is_set() && two.clone().within().is_set());
    }
}

//! Values that many states share, each with a hash that is made once.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    fmt::{self, Debug},
    hash::{Hash, Hasher},
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
};

/// A value that is told from others by what it looks like: API types have no hash of their own.
pub(crate) struct Kept<T>(Arc<(u64, T)>);

impl<T: Debug> Kept<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new((digest(&format!("{value:?}")), value)))
    }
}

impl<T> Kept<T> {
    pub(crate) fn digest(&self) -> u64 {
        self.0.0
    }
}

impl<T: Clone + Debug> Kept<T> {
    /// The same with a change.
    pub(crate) fn with(&self, change: impl FnOnce(&mut T)) -> Self {
        let mut value = T::clone(self);
        change(&mut value);
        Self::new(value)
    }
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.1
    }
}

impl<T> PartialEq for Kept<T> {
    fn eq(&self, other: &Self) -> bool {
        self.digest() == other.digest()
    }
}

impl<T> Hash for Kept<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.digest());
    }
}

impl<T: Debug> Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        T::fmt(self, f)
    }
}

pub(crate) fn digest(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What was worked out before: the same question comes up in many states.
pub(crate) struct Memo<T>(Mutex<HashMap<u64, T>>);

impl<T> Default for Memo<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Memo<T> {
    pub(crate) fn get(&self, question: &impl Hash, answer: impl FnOnce() -> T) -> T {
        let key = digest(question);
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        known.unwrap_or_else(|| {
            let answer = answer();
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, answer.clone());
            answer
        })
    }

    /// Keeps the answer to the question of this digest.
    pub(crate) fn insert(&self, question: u64, answer: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(question, answer);
    }

    pub(crate) fn known(&self, question: &impl Hash) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&digest(question)).cloned()
    }
}

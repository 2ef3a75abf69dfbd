//! Faults on demand, for the tests of debug builds. What ships has none of it.

/// Panics, once, if the file that `TEST_DRAINIT_PANIC` names holds this thread's name.
#[cfg(debug_assertions)]
pub fn point(thread: &str) {
    let Some(file) = std::env::var_os("TEST_DRAINIT_PANIC") else {
        return;
    };
    let wanted = std::fs::read_to_string(&file).is_ok_and(|name| name == thread);
    if wanted && std::fs::remove_file(file).is_ok() {
        panic!("a test wants it");
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub fn point(_thread: &str) {}

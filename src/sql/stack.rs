//! A call on a stack of a size of its own.

use std::io;

/// Runs `call` on a thread that has `bytes` of stack, and waits for it. The memory is reserved only:
/// what the call does not touch is never there.
///
/// # Errors
/// The system has no thread to give.
pub fn with_stack<T: Send>(bytes: usize, call: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("parser".to_owned())
            .stack_size(bytes)
            .spawn_scoped(scope, call)?;
        thread.join().map_err(|_| io::Error::other("the parser's thread panicked"))
    })
}

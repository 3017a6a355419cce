//! One line from an error and its causes: our errors' `Display` does not repeat their source, people want both.

use std::error::Error;

pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    #[error("the disk cannot be read")]
    struct Outer(#[source] io::Error);

    #[test]
    fn causes_follow_in_order() {
        assert_eq!(chain(&Outer(io::Error::other("EIO"))), "the disk cannot be read: EIO");
    }
}

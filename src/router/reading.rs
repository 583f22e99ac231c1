//! The parameters by which PostgreSQL reads a session's texts: under other values they would not mean what
//! they mean to the planner.

/// The session's parameters that say what its texts mean.
pub const READING: [&str; 4] =
    ["search_path", "standard_conforming_strings", "client_encoding", "session_replication_role"];

/// Whether a default for this parameter would change what texts mean without the session's doing.
pub fn changes_reading(name: &str) -> bool {
    READING.contains(&name) || name == "role"
}

/// Whether texts under this setting mean what they mean to the planner.
pub fn reads_alike(name: &str, value: &str) -> bool {
    match name.to_ascii_lowercase().as_str() {
        "client_encoding" => {
            let plain: String = value.chars().filter(char::is_ascii_alphanumeric).collect();
            matches!(plain.to_ascii_lowercase().as_str(), "utf8" | "unicode" | "sqlascii")
        }
        // As parse_bool: any beginning of these words.
        "standard_conforming_strings" => {
            let value = value.trim().to_ascii_lowercase();
            value == "on"
                || value == "1"
                || !value.is_empty() && ("true".starts_with(&value) || "yes".starts_with(&value))
        }
        _ => true,
    }
}

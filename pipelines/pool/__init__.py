"""Files become a clean pool: reading, canonical chats, quarantine, duplicates and leaks."""

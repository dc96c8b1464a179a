//! Pure mapping between virtual and host objects.

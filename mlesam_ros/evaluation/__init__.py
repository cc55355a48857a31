"""A bag in, evidence out: how good the masks are, what each sensor brought, what happens when one dies."""

"""What every floor shares: data-model contracts, errors, atomic files, process facts."""

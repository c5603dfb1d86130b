"""Side-by-side timings and whole studies; `README.md` lists them. The tests run none of them."""

import _library

if __name__ == "__main__":
    _library.run("extract_layers")

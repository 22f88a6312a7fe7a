"""Why steering works, or does not: the QGF paper's mechanism figures, each as data and a plot (``steerflow analyse``)."""

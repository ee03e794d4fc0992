"""What all web pages share: template, style, drawings and thumbnails."""

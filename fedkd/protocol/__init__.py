"""What coordinator and institutions exchange: signals, requests, replies, cards, recipes, label spaces."""

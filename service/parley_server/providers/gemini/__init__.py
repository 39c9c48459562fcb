"""Google's generateContent API: the Gemini API and Vertex AI."""

namespace Virtbus.Testing;

/// <summary>Something in a test is not as the test expects it; every test framework takes it for a failure.</summary>
/// <param name="message">What was expected, and what is.</param>
public sealed class ExpectationException(string message) : Exception(message);

namespace Virtbus.Samples;

/// <summary>What a consumer of a test part may ask of its creator.</summary>
public interface ITestPort
{
    /// <summary>A text of the creator's.</summary>
    string Greeting { get; }

    /// <summary>Makes a consumer known to the creator.</summary>
    /// <param name="consumer">The consumer's name.</param>
    void Open(string consumer);

    /// <summary>The consumer goes.</summary>
    /// <param name="consumer">The name that it gave.</param>
    void Close(string consumer);
}

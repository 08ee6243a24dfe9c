namespace Virtbus.Tests;

/// <summary>A clock that stands where a test has put it.</summary>
internal sealed class StandingClock : TimeProvider
{
    /// <summary>Seconds since its beginning.</summary>
    internal double Seconds { get; set; }

    public override long TimestampFrequency => 1000;

    public override long GetTimestamp() => (long)(Seconds * 1000);
}

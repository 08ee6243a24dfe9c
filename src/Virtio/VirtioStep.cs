namespace Virtbus.Virtio;

/// <summary>What a driver does to a device besides setting status bits, where the status decides whether it may.</summary>
public enum VirtioStep
{
    /// <summary>It says which features it takes.</summary>
    TakeFeatures,

    /// <summary>It enables a queue.</summary>
    EnableQueue,

    /// <summary>Its queues, those that are enabled, run.</summary>
    RunQueues,
}

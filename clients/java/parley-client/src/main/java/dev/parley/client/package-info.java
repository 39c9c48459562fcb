/** Java client of Parley. The messages of {@code dev.parley.v1} are generated from the contract. */
package dev.parley.client;
